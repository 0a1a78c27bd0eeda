"""Holds the engines that generate text, one file each, and the client and server bookkeeping that some share."""
