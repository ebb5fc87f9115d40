from django import forms

from catalog.models import Order


class OrderForm(forms.ModelForm):
    note = forms.CharField(widget=forms.Textarea, required=False)
    gift = forms.BooleanField(required=False)

    class Meta:
        model = Order
        fields = ()
