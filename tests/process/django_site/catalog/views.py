import os

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe
from django.views.generic import ListView

from catalog.forms import OrderForm
from catalog.models import Product

VERSION = "1"


class Products(ListView):
    model = Product


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{VERSION} {os.getpid()}")


def order(request: HttpRequest) -> HttpResponse:
    products = [{"name": f"product {number}", "price": number * 1.1} for number in range(20)]
    return render(request, "catalog/order.html", {"form": OrderForm(), "products": products})
