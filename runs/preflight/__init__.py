"""What is looked at before anything is spent: the machine, trials, a prediction of the cost."""
