"""Results: kept in files, compared, shown as a table or a page.

May import targets and load.
"""
