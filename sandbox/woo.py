"""A shop that plays WooCommerce, to develop, demonstrate and test against. It is used as the Shopify one is.

    with WooSimulation(100, seed=7) as shop:
        sender = shop.send("http://127.0.0.1:8000/webhooks/woocommerce/<key>", SendOptions(duplicates=0.1))
        sender.wait()
        shop.webhooks  # how often each would have been disabled

Its API answers at once, on its own thread; `shop.state.purge(id)` deletes an order for good.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from integrator.documents import Order
from integrator.shops.payload import parse
from integrator.shops.woocommerce_order import map_order
from sandbox.large import REQUESTS_PER_SECOND
from sandbox.shop import SendOptions, ShopSimulation
from sandbox.shop_facts import Life
from sandbox.shop_sender import Attempt
from sandbox.shop_server import ShopServer
from sandbox.woo_orders import WooEvent, lives
from sandbox.woo_sender import Webhooks, WooSender
from sandbox.woo_server import WooHandler, WooState

SECRET = "woo-<sandbox>-&-secret"  # noqa: S105 - made up
"""The webhooks' secret, with letters that WordPress keeps as entities."""


class WooSimulation(ShopSimulation):
    """A whole shop: `orders` lives of one seed, the read API, and senders of their webhooks.

    `restore` takes some orders out of the trash again; see `sandbox.woo_orders.lives`.
    """

    platform: ClassVar[str] = "woocommerce"
    state: WooState

    def __init__(
        self,
        orders: int,
        *,
        seed: int = 1,
        secret: str = SECRET,
        access_token: str = "ck_sandbox:cs_sandbox",  # noqa: S107 - made up
        domain: str = "sandbox.example",
        port: int = 0,
        restore: bool = False,
    ) -> None:
        self.lives = tuple(lives(orders, seed=seed, restore=restore))
        self.secret, self.access_token, self.domain = secret, access_token, domain
        self.state = WooState(self.lives)
        self.server = ShopServer(self.state, access_token, port=port, handler=WooHandler)
        self.webhooks = Webhooks()
        self._senders = []

    @property
    def config(self) -> dict[str, Any]:
        """The shop's configuration as the connector takes it."""
        return {"url": self.url, "requests_per_second": REQUESTS_PER_SECOND}

    @property
    def secrets(self) -> dict[str, Any]:
        """The shop's secrets as the connector's `validate` takes them, the webhooks' as the admin shows it."""
        key, _, secret = self.access_token.partition(":")
        escaped = self.secret.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return {"webhook": [escaped], "consumer_key": key, "consumer_secret": secret}

    def expected_orders(self) -> dict[str, Order]:
        """Give the canonical order that each life ends in, by external id, through the project's own mapper."""
        ends = {life.external_id: life.events[-1] for life in self.lives}
        return {
            external_id: map_order(parse(end.shown), [parse(refund) for refund in end.refunds])
            for external_id, end in ends.items()
            if isinstance(end, WooEvent)
        }

    def sender(
        self,
        receiver_url: str,
        lives: Sequence[Life],
        options: SendOptions | None = None,
        on_attempt: Callable[[Attempt], None] | None = None,
    ) -> WooSender:
        """Make a sender of the webhooks of some lives, which is not started yet."""
        return WooSender(
            receiver_url,
            lives,
            state=self.state,
            webhooks=self.webhooks,
            secret=self.secret,
            domain=self.domain,
            options=options,
            on_attempt=on_attempt,
        )
