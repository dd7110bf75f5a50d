"""The page Kernels of the site: what each kernel did with each request, and its trials."""
