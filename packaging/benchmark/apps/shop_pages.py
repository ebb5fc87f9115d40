"""The page of the Django site: a form and a list, by a template."""

from django import forms
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template import engines
from django.urls import path

PAGE = """<!doctype html>
<title>Order</title>
<form method="post">{% csrf_token %}{{ form.as_p }}</form>
{% for one in products %}<p>{{ forloop.counter }}: {{ one.name|title }}, {{ one.price }}</p>
{% endfor %}"""


class OrderForm(forms.Form):
    customer = forms.CharField(max_length=80)
    note = forms.CharField(widget=forms.Textarea, required=False)
    delivery = forms.DateField()
    gift = forms.BooleanField(required=False)


def order(request: HttpRequest) -> HttpResponse:
    products = [{"name": f"product {number}", "price": number * 1.1} for number in range(20)]
    template = engines["django"].from_string(PAGE)
    return HttpResponse(template.render({"form": OrderForm(), "products": products}, request))


urlpatterns = [path("hello", order), path("admin/", admin.site.urls)]
