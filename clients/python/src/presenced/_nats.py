"""The seam to nats-py: all that this package asks of a connection, and nothing else does.

Invariant: nobody cancels the future of a PING, as ``flush`` of nats-py does with those it gives up:
the PONG of such a one would end nats-py's read loop. Hence its ``_send_ping``, which ``flush`` is
made of. What it hears answers on is public nowhere either: ``_resp_sub_prefix``; nor the transport,
for whose close nats-py waits until all is sent: for ever, where nothing goes out any more.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Mapping
from typing import Any, Callable, NamedTuple, Optional, Union

from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ._pace import clock
from .errors import Closed, Denied, Disconnected, NoAnswer, NoDaemon, PresenceError

__all__ = [
    "Client",
    "Msg",
    "Nats",
    "OnMessage",
    "Refusal",
    "Subscription",
    "close_nats",
    "open_nats",
]

OnMessage = Callable[[Msg], Awaitable[None]]

# What is not sent yet at the end has so long.
_UNSENT = 1.0

_REFUSAL = re.compile(
    r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE
)


class Refusal(NamedTuple):
    """A subject that NATS refuses, in the lower case of nats-py."""

    of_subscription: bool
    subject: str


class Nats:
    """A connection that is the application's, by its public state; errors are ours."""

    def __init__(self, nc: Client) -> None:
        self.nc = nc

    @property
    def is_connected(self) -> bool:
        return self.nc.is_connected

    @property
    def is_closed(self) -> bool:
        return self.nc.is_closed

    @property
    def max_payload(self) -> int:
        return int(self.nc.max_payload)

    @property
    def reconnects(self) -> int:
        """The number of times it has reconnected."""
        return int(self.nc.stats["reconnects"])

    @property
    def received(self) -> int:
        """The number of messages that have come."""
        return int(self.nc.stats["in_msgs"])

    @property
    def last_error(self) -> Optional[Exception]:
        return self.nc.last_error

    @property
    def loop(self) -> Optional[asyncio.AbstractEventLoop]:
        """The event loop in which it reads; None before it is connected."""
        reading: Optional[asyncio.Task[None]] = getattr(self.nc, "_reading_task", None)
        return None if reading is None else reading.get_loop()

    async def request(self, subject: str, payload: bytes, timeout: float) -> Msg:
        try:
            return await self.nc.request(subject, payload, timeout=timeout)
        except nats_errors.NoRespondersError:
            raise NoDaemon(f"NATS answers, but no daemon serves {subject}") from None
        except (nats_errors.TimeoutError, asyncio.TimeoutError):
            raise NoAnswer(f"no answer on {subject} within {timeout} s") from None
        except (nats_errors.Error, OSError) as error:
            raise _broken(error, "the request could not be sent") from error

    async def publish(self, subject: str, payload: bytes) -> None:
        try:
            await self.nc.publish(subject, payload)
        except (nats_errors.Error, OSError) as error:
            raise _broken(error, "not published") from error

    async def subscribe(self, subject: str, on_message: OnMessage) -> Subscription:
        try:
            return await self.nc.subscribe(subject, cb=on_message)
        except (nats_errors.Error, OSError) as error:
            raise _broken(error, "not subscribed") from error

    async def unsubscribe(self, sub: Subscription) -> None:
        try:
            await sub.unsubscribe()
        except (nats_errors.Error, OSError):
            pass  # It has ended with the connection.

    async def pong_within(self, timeout: float) -> bool:
        """Whether the PONG of a PING sent now comes in time."""
        deadline = clock() + timeout
        # nats-py writes a PING at once, past what its flusher has not written yet.
        while self.nc.pending_data_size > 0 and clock() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        sending = asyncio.ensure_future(self.nc._send_ping(pong))
        try:
            await asyncio.wait({sending}, timeout=max(0.0, deadline - clock()))
            if sending.done():
                sending.result()
        except (nats_errors.Error, OSError):
            return False
        finally:
            sending.cancel()
        await asyncio.wait({pong}, timeout=max(0.0, deadline - clock()))
        return pong.done()

    async def force_reconnect(self) -> bool:
        """Has it reconnect; False for a nats-py that cannot be told to, before 2.15."""
        force: Optional[Callable[[], Awaitable[None]]]
        force = getattr(self.nc, "force_reconnect", None)
        if force is None:
            return False
        _abort(self.nc)
        try:
            await force()
        except (nats_errors.Error, OSError):
            return False  # It has ended, or reconnects by itself.
        return True

    def let_go(self) -> None:
        """Drops a link that nats-py leaves by itself, and for whose unsent bytes it would wait."""
        if self.nc.is_reconnecting:
            _abort(self.nc, only_closing=True)

    def takes_answers(self, subject: str) -> bool:
        """Whether nats-py hears the answers to all requests on this subject, in lower case."""
        prefix: Optional[bytearray] = self.nc._resp_sub_prefix
        return prefix is not None and subject == f"{prefix.decode()}*".lower()

    @staticmethod
    def dropped(error: Optional[Exception]) -> Optional[Subscription]:
        """The subscription whose messages nats-py has dropped."""
        return error.sub if isinstance(error, nats_errors.SlowConsumerError) else None

    @staticmethod
    def refusal(error: Exception) -> Optional[Refusal]:
        """The subject that NATS refuses, if the error is that."""
        found = _REFUSAL.search(str(error))
        if not found:
            return None
        return Refusal(found.group(1).lower() == "subscription", found.group(2).lower())


def _broken(error: Exception, what: str) -> PresenceError:
    ended = (nats_errors.ConnectionClosedError, nats_errors.ConnectionDrainingError)
    if isinstance(error, ended):
        return Closed("the NATS connection is closed")
    return Disconnected(f"{what}: {error!r}")


async def open_nats(
    servers: Union[str, list[str]], options: Mapping[str, Any], timeout: Optional[float]
) -> Client:
    """A new NATS connection, which nothing of it outlives if it cannot be made in time."""
    nc = Client()
    opening = asyncio.ensure_future(nc.connect(servers, **options))
    try:
        await asyncio.wait({opening}, timeout=timeout)
        if not opening.done():
            raise _unreachable(servers, f" within {timeout} s", nc.last_error)
        opening.result()
    except BaseException as error:
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        await close_nats(nc)
        if isinstance(error, (nats_errors.Error, OSError, asyncio.TimeoutError)):
            raise _unreachable(servers, "", error) from error
        raise
    return nc


def _unreachable(
    servers: Union[str, list[str]], when: str, error: Optional[Exception]
) -> PresenceError:
    """The error of a connection that was not made. It shows no password."""
    urls = [servers] if isinstance(servers, str) else servers
    where = ", ".join(url.rpartition("@")[2].rpartition("/")[2] for url in urls)
    why = f": {str(error) or repr(error)}" if error is not None else ""
    if isinstance(error, nats_errors.AuthorizationError) or "authorization" in why.lower():
        return Denied(f"NATS at {where} refuses the login{why}")
    return Disconnected(f"NATS at {where} was not reached{when}{why}")


def _abort(nc: Client, *, only_closing: bool = False) -> None:
    """Drops the link at once, with what is not sent."""
    writer = getattr(getattr(nc, "_transport", None), "_io_writer", None)
    transport: Optional[asyncio.WriteTransport] = getattr(writer, "transport", None)
    if transport is not None and (transport.is_closing() or not only_closing):
        transport.abort()


async def close_nats(nc: Client) -> None:
    """Closes a NATS connection, also one whose link breaks meanwhile, or sends nothing any more."""
    closing = asyncio.ensure_future(_close(nc))
    try:
        for _ in range(2):
            await asyncio.wait({closing}, timeout=_UNSENT)
            if not closing.done():
                _abort(nc)
    finally:
        closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)


async def _close(nc: Client) -> None:
    try:
        await nc.close()
    except (AttributeError, AssertionError):
        pass  # It never had a link, which nats-py does not foresee.
    except OSError:
        # nats-py leaves undone what comes after its last write.
        for sub in list(nc._subs.values()):
            if sub._wait_for_msgs_task is not None:
                sub._wait_for_msgs_task.cancel()
