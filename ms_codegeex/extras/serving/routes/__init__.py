"""The routes: each module has a function `router` that `app.create_app` calls."""
