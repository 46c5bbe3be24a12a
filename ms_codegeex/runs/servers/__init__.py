"""Place the processes of a run on servers, start them and watch them. Imports no engine."""
