"""A listening socket on this machine, opened and closed with `async with`."""

from __future__ import annotations

from aiohttp import web


class Listener:
    """What the sandbox and a replay have in common: an address, for as long as it listens."""

    _runner: web.AppRunner | None = None
    _url: str = ""

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        if not self._url:
            raise RuntimeError("the sandbox is not running")
        return self._url

    async def __aenter__(self) -> str:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> str:
        """Listen, and return the address."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Stop at once: requests in flight are dropped, connections closed."""
        runner, self._runner, self._url = self._runner, None, ""
        if runner is not None:
            await runner.cleanup()

    async def _listen(self, app: web.Application, host: str, port: int) -> str:
        """Serve an application; the address, also kept in `url`."""
        if self._runner is not None:
            raise RuntimeError("the sandbox is running already")
        self._runner = runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.01
        )
        try:
            await runner.setup()
            await web.TCPSite(runner, host, port).start()
        except BaseException:
            await self.stop()
            raise
        self._url = f"http://{f'[{host}]' if ':' in host else host}:{runner.addresses[0][1]}"
        return self._url
