"""RIP and the filters that it is compared with, on responses that already have rewards."""
