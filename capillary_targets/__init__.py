"""An asyncio client for the Capillary targets API."""
