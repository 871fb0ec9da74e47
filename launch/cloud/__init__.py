"""`podgcm launch`: what is run on Google's cloud, by its own `gcloud` and `kubectl`."""
