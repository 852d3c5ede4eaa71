"""The live workflow: display and terminal, recording, the clients of the two scripts, and session folders."""
