"""Job specs: the models, their short forms, references, operations and bounds."""
