from catalog.models import Order, Product
from django.contrib import admin

admin.site.register([Product, Order])
