"""What the site needs beside Sphinx; each module but `write_reference` is an extension of it."""
