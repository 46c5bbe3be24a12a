"""The routes. Each module has a function `router(backend)`, called by `app.create_app`, that returns its routes."""
