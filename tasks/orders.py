"""Orders: the doorbell's answer."""

from integrator.sync import orders
from integrator.sync.sides import ErpSide, ShopSide
from tasks.app import app
from tasks.sync_task import SyncTask


@app.task(base=SyncTask, bind=True, name="tasks.orders.sync_order")
def sync_order(self: SyncTask, tenant: str, sync_id: int) -> None:
    """Bring one order in the management system to what the shop says."""
    with self.claim(tenant, sync_id) as run:
        shop, erp = ShopSide.of(run.assignment, run.lease), ErpSide.of(run.assignment, run.lease)
        orders.converge(run, shop, erp)
