"""AWS's price list, which moto does not have: `GetProducts`, with the reply's published form.

AWS Price List Service API Reference; AWS Billing User Guide, "Reading the service price list file". It has not been
compared with what AWS itself answers.
"""

import json


class PriceList:
    """What an hour of an instance type costs on-demand: as a test says, and nothing before."""

    def __init__(self):
        self.prices = {}

    def replace(self, prices):
        if not all(isinstance(price, str) for price in prices.values()):
            raise TypeError("prices are text, by instance type")
        self.prices = prices

    def answer(self, call):
        """The status, the type and the body that a call has."""
        if call.action != "GetProducts":
            return 400, "application/x-amz-json-1.1", json.dumps({"__type": "InvalidParameterException"})
        wanted = {each["Field"]: each["Value"] for each in call.parameters.get("Filters", [])}
        price = self.prices.get(wanted.get("instanceType"))
        products = [] if price is None else [json.dumps(product(wanted, price))]
        body = json.dumps({"FormatVersion": "aws_v1", "PriceList": products})
        return 200, "application/x-amz-json-1.1", body


def product(attributes, price):
    sku, term = "22AZWS52B2FTSQ6B", "JRTCKXETXF"
    dimension = {
        "unit": "Hrs", "beginRange": "0", "endRange": "Inf", "appliesTo": [], "rateCode": f"{sku}.{term}.6YS6EN2CT7",
        "description": f"${price} per On Demand Linux {attributes['instanceType']} Instance Hour",
        "pricePerUnit": {"USD": f"{float(price):.10f}"},
    }  # fmt: skip
    on_demand = {
        "sku": sku, "offerTermCode": term, "effectiveDate": "2026-11-01T00:00:00Z", "termAttributes": {},
        "priceDimensions": {dimension["rateCode"]: dimension},
    }  # fmt: skip
    attributes = {"servicecode": "AmazonEC2", **attributes}
    return {
        "product": {"productFamily": "Compute Instance", "sku": sku, "attributes": attributes},
        "serviceCode": "AmazonEC2", "terms": {"OnDemand": {f"{sku}.{term}": on_demand}},
        "version": "20261101000000", "publicationDate": "2026-11-01T00:00:00Z",
    }  # fmt: skip
