"""Values of the OCI image and distribution specifications (L1); no I/O."""
