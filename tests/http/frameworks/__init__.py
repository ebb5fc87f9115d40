"""One small shop, written with each of the frameworks that people write WSGI apps with.

Each module has `make(say, folder)`, called in the worker: `say` sends a line to the test, `folder`
has the file "data". All of them answer alike:

/               "hello"
/items/N?q=     JSON of both
/old            a redirect to /items/7?q=old
/login, /me     POST name=: a cookie; GET: the name in it
/form           POST, urlencoded: JSON of the number of fields and the last value
/upload         POST, multipart: JSON of the name, size and digest of `file`, and of `note`
/body           PUT: JSON of the size and digest
/stream         a hundred pieces; says "stream closed"
/endless        pieces without an end; says "endless closed"
/files/data     the file, with Range and conditional requests where the framework has them
/empty          204
/fail           raises LookupError
"""
