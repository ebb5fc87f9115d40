from catalog.models import Order
from django import forms


class OrderForm(forms.ModelForm):
    note = forms.CharField(widget=forms.Textarea, required=False)
    gift = forms.BooleanField(required=False)

    class Meta:
        model = Order
        fields = ()
