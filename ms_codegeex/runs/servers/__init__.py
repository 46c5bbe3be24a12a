"""How the processes of a run are placed on servers, started and watched. Imports no engine."""
