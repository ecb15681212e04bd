"""The dashboard: pages on NiceGUI, mounted at /room on the API's own app. One module a page; they read and act through the API's own
functions, and never decide anything themselves.
"""
