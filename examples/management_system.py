"""The smallest management system that keeps the contract: Flask and one SQLite file.

ERP_TOKEN=secret flask --app examples/management_system run --port 8080
"""

import json
import os
import sqlite3
import threading
from decimal import ROUND_HALF_UP, Decimal

from flask import Flask, request

app = Flask(__name__)
lock = threading.Lock()
db = sqlite3.connect(os.environ.get("ERP_FILE", "erp.sqlite3"), check_same_thread=False)
db.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, reference TEXT, resource TEXT)")
db.execute("CREATE TABLE IF NOT EXISTS keys (key TEXT PRIMARY KEY, asked TEXT, status INTEGER, answer TEXT)")


def rows(query, *values):
    return db.execute(query, values).fetchall()


def refuse(status, code, **more):
    problem = {"title": code, "status": status, "code": code, **more}
    return problem, status, {"Content-Type": "application/problem+json"}


@app.before_request
def authorize():
    known = request.headers.get("Authorization") == f"Bearer {os.environ['ERP_TOKEN']}"
    return None if known else refuse(401, "unauthorized")


@app.get("/health")
def health():
    return {"status": "ok"}


@app.get("/orders")
def find():
    with lock:
        found = rows("SELECT resource FROM orders WHERE reference = ? ORDER BY id", request.args["reference"])
    return {"orders": [json.loads(resource) for (resource,) in found]}


@app.post("/orders")
@app.put("/orders/<int:order>")
@app.post("/orders/<int:order>/<any(credits, cancel):what>")
def effect(order=None, what="content"):
    """Have one effect, once: the effect, the key and the answer are kept in one transaction."""
    key, body = request.headers["Idempotency-Key"], request.get_json()
    asked = f"{request.method} {request.path} {request.get_data(as_text=True)}"
    with lock, db:  # one after the other; an exception rolls all of it back
        for before, status, answer in rows("SELECT asked, status, answer FROM keys WHERE key = ?", key):
            return (json.loads(answer), status) if before == asked else refuse(409, "key_reused")  # rule 1
        found = rows("SELECT resource FROM orders WHERE id = ?", order)
        if order is not None and not found:
            return refuse(404, "not_found")
        if what != "cancel" and own_total(body) != Decimal(body["total"]):  # rule 2
            return refuse(422, "total_mismatch", total=f"{own_total(body):f}", currency=body["currency"])
        order = order or db.execute("INSERT INTO orders DEFAULT VALUES").lastrowid
        new = {"id": str(order), "state": "open", "applied_keys": [], "credits": []}
        resource = json.loads(found[0][0]) if found else new
        if what == "content" and resource["state"] == "cancelled":
            return refuse(409, "cancelled")
        change(resource, what, body)
        kept = json.dumps(resource)
        rows("UPDATE orders SET reference = ?, resource = ? WHERE id = ?", resource["reference"], kept, order)
        status = 200 if what == "cancel" or request.method == "PUT" else 201
        rows("INSERT INTO keys VALUES (?, ?, ?, ?)", key, asked, status, kept)
    return resource, status


def change(resource, what, body):
    """Make the order as it is afterwards. Here your own bookkeeping begins."""
    if what == "content":
        resource |= {name: body[name] for name in ("reference", "total", "currency")}
    elif what == "cancel":
        resource["state"] = "cancelled"
    else:
        number = f"{resource['id']}-{len(resource['credits']) + 1}"
        resource["credits"].append({"id": number, **{name: body[name] for name in ("key", "reference", "total")}})
    resource["applied_keys"].append(body["key"])


def own_total(body):
    """Add up what is listed, exactly, and round half up to the decimals that the total has."""
    total = Decimal(0)
    for part in [*body["lines"], *body["shipping"], *body["fees"]]:
        price = part.get("amount") or part.get("price")  # a credit's line or a fee; shipping; else an order's line
        total += Decimal(price) if price else Decimal(part["quantity"]) * Decimal(part["unit_price"])
        total -= Decimal(part.get("discount", 0))
        total += sum(Decimal(tax["amount"]) for tax in part["taxes"]) * (not body["taxes_included"])
    return total.quantize(Decimal(body["total"]), rounding=ROUND_HALF_UP)
