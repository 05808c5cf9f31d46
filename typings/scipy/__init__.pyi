# scipy ships no types; here and in the modules beside are the names that the project uses.
