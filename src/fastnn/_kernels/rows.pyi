# nothing of this module is for Python
