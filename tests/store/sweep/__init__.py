"""Every call that the store makes to the file system fails once, or from then on, or is the last one made."""
