from django.contrib import admin

from catalog.models import Order, Product

admin.site.register([Product, Order])
