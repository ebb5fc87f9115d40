from catalog import views
from django.contrib import admin
from django.urls import path

urlpatterns = [path("", views.index), path("order", views.order), path("admin/", admin.site.urls)]
