"""`lema review`: a page on this machine for grading corrections, as the paper's authors did by hand (section 2.1).

Starlette and uvicorn are imported here only. The page works by plain forms; its script adds the keys.
"""
