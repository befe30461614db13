"""The pieces of work that pass between the rooms: what arrived, what a worker is given, what comes back, what is given up."""
