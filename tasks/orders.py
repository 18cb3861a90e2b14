"""Orders: the doorbell's answer."""

from typing import Any

from integrator.sync import orders
from integrator.sync.sides import ErpSide, ShopSide
from tasks.app import app
from tasks.sync_task import SyncTask


@app.task(base=SyncTask, bind=True, name="tasks.orders.sync_order")
def sync_order(self: SyncTask, tenant: str, sync_id: int, **_newer: Any) -> None:
    """Bring one order in the management system to what the shop says.

    What a newer version's message says besides is passed over: all that counts is in the ledger (PROTOCOL C7).
    """
    with self.claim(tenant, sync_id) as run:
        shop = ShopSide.of(run.assignment, run.lease, run.limiter)
        erp = ErpSide.of(run.assignment, run.lease, run.limiter)
        orders.converge(run, shop, erp)
