"""Requests that two parsers could read differently: each is refused, or answered exactly once."""

import pytest

from tests.http.exchange import cut_everywhere

HOST = b"Host: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
CHUNKS = CHUNKED + b"\r\n"
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
END = b"0\r\n\r\n"


def head(*fields: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join([line, b"Host: a", *fields, b"", b""])


def post(*fields: bytes) -> bytes:
    return head(*fields, line=b"POST / HTTP/1.1")


# What was answered ("METHOD target body", ...), and the status of the refusal that ends it.
REFUSED: dict[str, tuple[int, bytes]] = {
    # Content-Length beside Transfer-Encoding
    "cl.te": (400, post(b"Content-Length: 4", b"Transfer-Encoding: chunked") + END + HIDDEN),
    "te.cl": (400, post(b"Transfer-Encoding: chunked", b"Content-Length: 4") + END + HIDDEN),
    "cl.te zero length": (400, post(b"Content-Length: 0", b"Transfer-Encoding: chunked") + END),
    "cl.te on GET": (400, head(b"Content-Length: 4", b"Transfer-Encoding: chunked") + END),
    "cl.te.cl": (
        400,
        post(b"Content-Length: 1", b"Transfer-Encoding: chunked", b"Content-Length: 1") + END,
    ),
    "cl.te with cl last and case mixed": (
        400,
        post(b"tRANSFER-eNCODING: chunked", b"cONTENT-lENGTH: 5") + END,
    ),
    "te on 1.0": (
        400,
        head(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0") + END + HIDDEN,
    ),
    "cl.te on 1.0": (
        400,
        head(b"Content-Length: 5", b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0") + END,
    ),
    # Content-Length
    "cl twice, different": (400, post(b"Content-Length: 3", b"Content-Length: 0") + b"abc"),
    "cl twice, equal": (400, post(b"Content-Length: 3", b"Content-Length: 3") + b"abc"),
    "cl twice, other case": (400, post(b"Content-Length: 3", b"content-length: 3") + b"abc"),
    "cl list": (400, post(b"Content-Length: 3, 3") + b"abc"),
    "cl list without space": (400, post(b"Content-Length: 3,3") + b"abc"),
    "cl list with an empty element": (400, post(b"Content-Length: ,3") + b"abc"),
    "cl plus": (400, post(b"Content-Length: +3") + b"abc"),
    "cl minus": (400, post(b"Content-Length: -3") + b"abc"),
    "cl minus zero": (400, post(b"Content-Length: -0")),
    "cl hexadecimal": (400, post(b"Content-Length: 0x3") + b"abc"),
    "cl octal": (400, post(b"Content-Length: 0o3") + b"abc"),
    "cl hex digits": (400, post(b"Content-Length: a") + b"abcdefghij"),
    "cl exponent": (400, post(b"Content-Length: 1e1") + b"abcdefghij"),
    "cl fraction": (400, post(b"Content-Length: 3.0") + b"abc"),
    "cl underscore": (400, post(b"Content-Length: 1_0") + b"abcdefghij"),
    "cl space inside": (400, post(b"Content-Length: 1 0") + b"abcdefghij"),
    "cl tab inside": (400, post(b"Content-Length: 1\t0") + b"abcdefghij"),
    "cl empty": (400, post(b"Content-Length:") + b"abc"),
    "cl only blanks": (400, post(b"Content-Length: \t ") + b"abc"),
    "cl word": (400, post(b"Content-Length: three") + b"abc"),
    "cl quoted": (400, post(b'Content-Length: "3"') + b"abc"),
    "cl with parameter": (400, post(b"Content-Length: 3;a=b") + b"abc"),
    "cl arabic digit in UTF-8": (400, post(b"Content-Length: \xd9\xa3") + b"abc"),
    "cl superscript in latin-1": (400, post(b"Content-Length: \xb3") + b"abc"),
    "cl no-break space": (400, post(b"Content-Length:\xa03") + b"abc"),
    "cl vertical tab": (400, post(b"Content-Length:\x0b3") + b"abc"),
    "cl form feed": (400, post(b"Content-Length: 3\x0c") + b"abc"),
    "cl NUL": (400, post(b"Content-Length: 3\x00") + b"abc"),
    "cl past 64 bits": (413, post(b"Content-Length: 18446744073709551619") + b"abc"),
    "cl of hundreds of digits": (413, post(b"Content-Length: " + b"9" * 500)),
    "cl larger than the limit": (413, post(b"Content-Length: 1073741825") + b"abc"),
    # Transfer-Encoding
    "te twice": (400, post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked") + END),
    "te twice, other one second": (
        501,
        post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity") + END,
    ),
    "te list of twice chunked": (501, post(b"Transfer-Encoding: chunked, chunked") + END),
    "te identity": (501, post(b"Transfer-Encoding: identity", b"Content-Length: 3") + b"abc"),
    "te gzip, chunked": (501, post(b"Transfer-Encoding: gzip, chunked") + END),
    "te chunked, gzip": (501, post(b"Transfer-Encoding: chunked, gzip") + END),
    "te chunked, identity": (501, post(b"Transfer-Encoding: chunked, identity") + END),
    "te empty": (501, post(b"Transfer-Encoding:") + END),
    "te empty element": (501, post(b"Transfer-Encoding: , chunked") + END),
    "te trailing comma": (501, post(b"Transfer-Encoding: chunked,") + END),
    "te parameter": (501, post(b"Transfer-Encoding: chunked;q=1") + END),
    "te trailing semicolon": (501, post(b"Transfer-Encoding: chunked;") + END),
    "te quoted": (501, post(b'Transfer-Encoding: "chunked"') + END),
    "te single quoted": (501, post(b"Transfer-Encoding: 'chunked'") + END),
    "te prefix x": (501, post(b"Transfer-Encoding: xchunked") + END),
    "te suffix x": (501, post(b"Transfer-Encoding: chunkedx") + END),
    "te two words": (501, post(b"Transfer-Encoding: chunked foo") + END),
    "te cow": (501, post(b"Transfer-Encoding: cow") + END),
    "te no-break space": (501, post(b"Transfer-Encoding:\xa0chunked") + END),
    "te kelvin sign folds to k": (501, post("Transfer-Encoding: chun\u212aed".encode()) + END),
    "te vertical tab": (400, post(b"Transfer-Encoding:\x0bchunked") + END),
    "te vertical tab after": (400, post(b"Transfer-Encoding: chunked\x0b") + END),
    "te backspace": (400, post(b"Transfer-Encoding: chunked\x08") + END),
    "te NUL": (400, post(b"Transfer-Encoding: chunked\x00") + END),
    "te folded": (501, post(b"Transfer-Encoding:\r\n chunked") + END),
    "te folded after another value": (501, post(b"Transfer-Encoding: x\r\n\tchunked") + END),
    # the shape of a field line
    "space before the colon": (400, post(b"Transfer-Encoding : chunked") + END),
    "tab before the colon": (400, post(b"Transfer-Encoding\t: chunked") + END),
    "space before the colon of cl": (400, post(b"Content-Length : 3") + b"abc"),
    "space before the name": (400, post(b" Transfer-Encoding: chunked") + END),
    "space before the first field": (
        400,
        b"POST / HTTP/1.1\r\n Content-Length: 3\r\nHost: a\r\n\r\nabc",
    ),
    "folded field": (400, post(b"X: a\r\n b") + HIDDEN),
    "folded field with tab": (400, post(b"X: a\r\n\tContent-Length: 30") + HIDDEN),
    "fold of blanks only": (400, post(b"X: a\r\n ") + HIDDEN),
    "no colon": (400, post(b"Transfer-Encoding") + END),
    "empty name": (400, post(b": chunked") + END),
    "colon alone": (400, post(b":") + END),
    "NUL in a name": (400, post(b"Transfer-Encoding\x00: chunked") + END),
    "NUL in a value": (400, post(b"X: a\x00b")),
    "DEL in a value": (400, post(b"X: a\x7fb")),
    "ESC in a value": (400, post(b"X: \x1b[31m")),
    "high byte in a name": (400, post(b"X\xe4: b")),
    "quote in a name": (400, post(b'"Content-Length": 3') + b"abc"),
    "slash in a name": (400, post(b"X/Y: 3")),
    "parenthesis in a name": (400, post(b"Content-Length(x): 3") + b"abc"),
    "UTF-8 BOM before a name": (400, post(b"\xef\xbb\xbfContent-Length: 3") + b"abc"),
    # bare CR, bare LF
    "LF ends the request line": (400, b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    "LF ends every line": (400, b"GET / HTTP/1.1\nHost: a\n\n" + HIDDEN),
    "LF ends a field": (400, post(b"X: a\nContent-Length: 3") + b"abc"),
    "LF hides Transfer-Encoding": (400, post(b"X: a\nTransfer-Encoding: chunked") + END),
    "LF CR ends a field": (400, post(b"X: a\n\rContent-Length: 3") + b"abc"),
    "LF LF ends the head": (400, b"GET / HTTP/1.1\r\nHost: a\n\n" + HIDDEN),
    "CRLF LF ends the head": (400, b"GET / HTTP/1.1\r\nHost: a\r\n\n" + HIDDEN),
    "LF CRLF ends the head": (400, b"GET / HTTP/1.1\r\nHost: a\n\r\n" + HIDDEN),
    "CR ends a field": (400, post(b"X: a\rContent-Length: 3") + b"abc"),
    "CR in a value": (400, post(b"X: a\rb")),
    "CR before a CRLF": (400, post(b"X: a\r")),
    "CR CR LF ends the request line": (400, b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n"),
    "CR in a name": (400, post(b"Content-\rLength: 3") + b"abc"),
    "CR after the colon": (400, post(b"Content-Length:\r3") + b"abc"),
    "CR before the colon": (400, post(b"Content-Length\r: 3") + b"abc"),
    "CR in the request line": (400, b"GET /\rx HTTP/1.1\r\nHost: a\r\n\r\n"),
    "CR separates the request line": (400, b"GET\r/\rHTTP/1.1\r\nHost: a\r\n\r\n"),
    "CR ends all": (400, b"GET / HTTP/1.1\rHost: a\r\r"),
    # Host
    "no host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "no host with an absolute target": (400, b"GET http://a/ HTTP/1.1\r\n\r\n"),
    "host twice": (400, head(b"Host: b")),
    "host twice, equal": (400, head(b"Host: a")),
    "host twice, other case": (400, head(b"HOST: b")),
    "host list": (400, b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    "host with a space": (400, b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    "host with a path": (400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    "host with userinfo": (400, b"GET / HTTP/1.1\r\nHost: good@evil\r\n\r\n"),
    "host with a query": (400, b"GET / HTTP/1.1\r\nHost: a?b\r\n\r\n"),
    "host with a fragment": (400, b"GET / HTTP/1.1\r\nHost: a#b\r\n\r\n"),
    "host with a backslash": (400, b"GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n"),
    "host with a scheme": (400, b"GET / HTTP/1.1\r\nHost: http://a\r\n\r\n"),
    "host with a word for a port": (400, b"GET / HTTP/1.1\r\nHost: a:http\r\n\r\n"),
    "host with two ports": (400, b"GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n"),
    "host with a signed port": (400, b"GET / HTTP/1.1\r\nHost: a:+80\r\n\r\n"),
    "host with markup": (400, b"GET / HTTP/1.1\r\nHost: <b>\r\n\r\n"),
    "host with a high byte": (400, b"GET / HTTP/1.1\r\nHost: \xe4\r\n\r\n"),
    "host of an open bracket": (400, b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
    "host with a zone": (400, b"GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]\r\n\r\n"),
    "host empty": (400, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    "host of a port alone": (400, b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n"),
    "absolute target with userinfo": (400, head(line=b"GET http://good@evil/ HTTP/1.1")),
    "absolute target without a host": (400, head(line=b"GET http:///x HTTP/1.1")),
    "absolute target of another scheme": (400, head(line=b"GET file://a/etc HTTP/1.1")),
    # the request line
    "two spaces after the method": (400, head(line=b"GET  / HTTP/1.1")),
    "two spaces before the version": (400, head(line=b"GET /  HTTP/1.1")),
    "space at the end of the line": (400, head(line=b"GET / HTTP/1.1 ")),
    "space at the start of the line": (400, head(line=b" GET / HTTP/1.1")),
    "tab for a space": (400, head(line=b"GET\t/ HTTP/1.1")),
    "vertical tab for a space": (400, head(line=b"GET\x0b/ HTTP/1.1")),
    "no-break space for a space": (400, head(line=b"GET\xa0/ HTTP/1.1")),
    "space in the target": (400, head(line=b"GET /a b HTTP/1.1")),
    "version in the target": (400, head(line=b"GET / HTTP/1.1 HTTP/1.1")),
    "HTTP/0.9": (400, b"GET /\r\n" + HIDDEN),
    "no target": (400, head(line=b"GET HTTP/1.1")),
    "no method": (400, head(line=b"/ HTTP/1.1")),
    "lower case version": (400, head(line=b"GET / http/1.1")),
    "version of two digits": (400, head(line=b"GET / HTTP/1.10")),
    "version with a leading zero": (400, head(line=b"GET / HTTP/01.1")),
    "version 1.2": (505, head(line=b"GET / HTTP/1.2")),
    "version 2.0": (505, head(line=b"GET / HTTP/2.0")),
    "version 0.9": (505, head(line=b"GET / HTTP/0.9")),
    "HTTP/2 preface": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "other protocol": (400, head(line=b"GET / ICY/1.1")),
    "fragment in the target": (400, head(line=b"GET /a#b HTTP/1.1")),
    "backslash in the path": (400, head(line=b"GET /a\\..\\b HTTP/1.1")),
    "relative target": (400, head(line=b"GET a/b HTTP/1.1")),
    "broken escape in the path": (400, head(line=b"GET /%2 HTTP/1.1")),
    "broken escape before a query": (400, head(line=b"GET /a%?b HTTP/1.1")),
    "broken escape before the port": (400, head(line=b"GET http://a%:80/ HTTP/1.1")),
    "NUL in the target": (400, head(line=b"GET /\x00 HTTP/1.1")),
    "high byte in the target": (400, head(line=b"GET /\xe4 HTTP/1.1")),
    "asterisk for GET": (400, head(line=b"GET * HTTP/1.1")),
    "asterisk with more": (400, head(line=b"OPTIONS *x HTTP/1.1")),
    "CONNECT": (501, head(line=b"CONNECT a:443 HTTP/1.1") + HIDDEN),
    "CONNECT with an origin target": (501, head(line=b"CONNECT / HTTP/1.1") + HIDDEN),
    "colon in the method": (400, head(line=b"GET: / HTTP/1.1")),
    "NUL before the method": (400, b"\x00" + HIDDEN),
    "LF before the method": (400, b"\n" + HIDDEN),
    "CR before the method": (400, b"\r" + HIDDEN),
    "two empty lines before the method": (400, b"\r\n\r\n" + HIDDEN),
    "BOM before the method": (400, b"\xef\xbb\xbf" + HIDDEN),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "PROXY protocol v1": (400, b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + HIDDEN),
    "PROXY protocol v2": (400, b"\r\n\r\n\x00\r\nQUIT\n" + HIDDEN),
    # chunk sizes
    "chunk size empty": (400, CHUNKS + b"\r\nabc\r\n" + END),
    "chunk size hex prefix": (400, CHUNKS + b"0x3\r\nabc\r\n" + END),
    "chunk size plus": (400, CHUNKS + b"+3\r\nabc\r\n" + END),
    "chunk size minus": (400, CHUNKS + b"-3\r\nabc\r\n" + END),
    "chunk size minus zero": (400, CHUNKS + b"-0\r\n\r\n"),
    "chunk size underscore": (400, CHUNKS + b"0_3\r\nabc\r\n" + END),
    "chunk size leading space": (400, CHUNKS + b" 3\r\nabc\r\n" + END),
    "chunk size trailing space": (400, CHUNKS + b"3 \r\nabc\r\n" + END),
    "chunk size trailing tab": (400, CHUNKS + b"3\t\r\nabc\r\n" + END),
    "chunk size not hex": (400, CHUNKS + b"g\r\nabc\r\n" + END),
    "chunk size comma": (400, CHUNKS + b"3,3\r\nabc\r\n" + END),
    "chunk size fraction": (400, CHUNKS + b"3.0\r\nabc\r\n" + END),
    "chunk size NUL": (400, CHUNKS + b"3\x00\r\nabc\r\n" + END),
    "chunk size fullwidth digit": (400, CHUNKS + "３\r\nabc\r\n".encode() + END),
    "chunk size of 17 digits": (400, CHUNKS + b"00000000000000003\r\nabc\r\n" + END),
    "chunk size wraps 64 bits": (400, CHUNKS + b"10000000000000003\r\nabc\r\n" + END),
    "chunk size of 64 bits": (413, CHUNKS + b"ffffffffffffffff\r\nabc\r\n" + END),
    "chunk size ends with LF": (400, CHUNKS + b"3\nabc\r\n" + END),
    "chunk size ends with CR": (400, CHUNKS + b"3\rabc\r\n" + END),
    "chunk size ends with CR CR LF": (400, CHUNKS + b"3\r\r\nabc\r\n" + END),
    "last chunk ends with LF": (400, CHUNKS + b"0\n\r\n" + HIDDEN),
    # what surrounds a chunk's data
    "chunk data too long": (400, CHUNKS + b"3\r\nabcd\r\n" + END),
    "chunk data too short": (400, CHUNKS + b"3\r\nab\r\n" + END),
    "chunk data without CRLF": (400, CHUNKS + b"3\r\nabc" + END),
    "chunk data ends with LF": (400, CHUNKS + b"3\r\nabc\n" + END),
    "chunk data ends with CR": (400, CHUNKS + b"3\r\nabc\r" + END),
    "chunk data ends with LF CR": (400, CHUNKS + b"3\r\nabc\n\r" + END),
    "chunk data ends with any two bytes": (400, CHUNKS + b"3\r\nabcXX" + END),
    # chunk extensions
    "extension with LF": (400, CHUNKS + b"3;a\nb\r\nabc\r\n" + END),
    "extension hides a chunk after LF": (400, CHUNKS + b"2;\nxx\r\n" + b"4c\r\n" + HIDDEN + END),
    "extension with CR": (400, CHUNKS + b"3;a\rb\r\nabc\r\n" + END),
    "extension with NUL": (400, CHUNKS + b"3;a=\x00\r\nabc\r\n" + END),
    "extension without a name": (400, CHUNKS + b"3;\r\nabc\r\n" + END),
    "extension without a name at the end": (400, CHUNKS + b"0;\r\n\r\n"),
    "extension without a name after another": (400, CHUNKS + b"3;a;\r\nabc\r\n" + END),
    "extension without a value": (400, CHUNKS + b"3;a=\r\nabc\r\n" + END),
    "extension with a space": (400, CHUNKS + b"3; a=b\r\nabc\r\n" + END),
    "extension after a space": (400, CHUNKS + b"3 ;a=b\r\nabc\r\n" + END),
    "extension with an open quote": (400, CHUNKS + b'3;a="b\r\nabc\r\n' + END),
    "extension with CRLF in quotes": (400, CHUNKS + b'3;a="\r\nabc\r\n0\r\n\r\n"\r\nabc\r\n' + END),
    "extension with text after quotes": (400, CHUNKS + b'3;a="b"c\r\nabc\r\n' + END),
    "extension of comma": (400, CHUNKS + b"3,a=b\r\nabc\r\n" + END),
    "extension too long": (400, CHUNKS + b"3;a=" + b"b" * 1022 + b"\r\nabc\r\n" + END),
    # trailers
    "trailer content-length": (400, CHUNKS + b"0\r\nContent-Length: 5\r\n\r\n" + HIDDEN),
    "trailer transfer-encoding": (400, CHUNKS + b"0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "trailer host": (400, CHUNKS + b"0\r\nHost: b\r\n\r\n"),
    "trailer cookie": (400, CHUNKS + b"0\r\nCookie: a=b\r\n\r\n"),
    "trailer authorization": (400, CHUNKS + b"0\r\nAuthorization: Basic YQ==\r\n\r\n"),
    "trailer content-type": (400, CHUNKS + b"0\r\nContent-Type: text/plain\r\n\r\n"),
    "trailer content-encoding": (400, CHUNKS + b"0\r\ncontent-encoding: gzip\r\n\r\n"),
    "trailer connection": (400, CHUNKS + b"0\r\nConnection: close\r\n\r\n"),
    "trailer x-forwarded-for": (400, CHUNKS + b"0\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"),
    "trailer if-match": (400, CHUNKS + b"0\r\nIf-Match: *\r\n\r\n"),
    "trailer folded": (400, CHUNKS + b"0\r\nX: a\r\n b\r\n\r\n"),
    "trailer with a space before the colon": (400, CHUNKS + b"0\r\nX : a\r\n\r\n"),
    "trailer with LF": (400, CHUNKS + b"0\r\nX: a\n\r\n" + HIDDEN),
    "trailer with CR": (400, CHUNKS + b"0\r\nX: a\rb\r\n\r\n"),
    "trailer with NUL": (400, CHUNKS + b"0\r\nX: \x00\r\n\r\n"),
    "trailer without a colon": (400, CHUNKS + b"0\r\nGET /hidden HTTP/1.1\r\n\r\n"),
    "request right after the last chunk": (400, CHUNKS + b"0\r\n" + HIDDEN),
    # other refusals
    "unknown expectation": (417, post(b"Expect: 200-ok", b"Content-Length: 3") + b"abc"),
    "two expectations": (417, post(b"Expect: 100-continue, x", b"Content-Length: 3") + b"abc"),
    "connection is not a list": (400, head(b"Connection: close; x")),
}

ANSWERED: dict[str, tuple[list[str], int, bytes]] = {
    "cl alias with underscores": (
        ["POST /", "GET /hidden"],
        0,
        post(b"Content_Length: 5") + HIDDEN,
    ),
    "te alias with underscores": (
        ["POST / abc", "GET /hidden"],
        0,
        post(b"Transfer_Encoding: chunked", b"Content-Length: 3") + b"abc" + HIDDEN,
    ),
    "host alias beside host": (["GET /"], 0, head(b"Host_: b", b"H_ost: c")),
    "te is no transfer-encoding": (
        ["POST / abc"],
        0,
        post(b"TE: chunked", b"Content-Length: 3") + b"abc",
    ),
    "connection names transfer-encoding": (
        ["POST / abc", "GET /hidden"],
        0,
        post(b"Connection: transfer-encoding", b"Transfer-Encoding: chunked")
        + b"3\r\nabc\r\n"
        + END
        + HIDDEN,
    ),
    "connection names content-length": (
        ["POST / abc", "GET /hidden"],
        0,
        post(b"Connection: content-length", b"Content-Length: 3") + b"abc" + HIDDEN,
    ),
    "cl with leading zeros is decimal": (
        ["POST / 0123456789", "GET /hidden"],
        0,
        post(b"Content-Length: 010") + b"0123456789" + HIDDEN,
    ),
    "cl with blanks around": (["POST / abc"], 0, post(b"Content-Length: \t3\t ") + b"abc"),
    "te in mixed case": (
        ["POST / abc"],
        0,
        post(b"Transfer-Encoding: ChUnKeD") + b"3\r\nabc\r\n" + END,
    ),
    "chunk size in both cases": (
        ["POST / " + "x" * 20],
        0,
        CHUNKS + b"a\r\n" + b"x" * 10 + b"\r\nA\r\n" + b"x" * 10 + b"\r\n" + END,
    ),
    "chunk size with leading zeros": (
        ["POST / abc"],
        0,
        CHUNKS + b"0000000000000003\r\nabc\r\n" + END,
    ),
    "last chunk of many zeros": (["POST /", "GET /hidden"], 0, CHUNKS + b"0000\r\n\r\n" + HIDDEN),
    "chunk data looks like the end": (
        ["POST / 0\r\n\r\nGET /"],
        0,
        CHUNKS + b"a\r\n0\r\n\r\nGET /\r\n" + END,
    ),
    "body looks like a request": (
        ["POST / " + HIDDEN.decode().rstrip()],
        0,
        post(b"Content-Length: %d" % len(HIDDEN)) + HIDDEN,
    ),
    "body of GET is a body": (
        ["GET / abc", "GET /hidden"],
        0,
        head(b"Content-Length: 3") + b"abc" + HIDDEN,
    ),
    "GET without length has no body": (["GET /", "GET /hidden"], 0, head() + HIDDEN),
    "POST without length has no body": (["POST /", "GET /hidden"], 0, post() + HIDDEN),
    "extensions by the grammar": (
        ["POST / abc"],
        0,
        CHUNKS + b'3;a;b=c;d="e;\\"\t;f"\r\nabc\r\n' + END,
    ),
    "quoted extension with a lookalike": (
        ["POST / abc"],
        0,
        CHUNKS + b'3;a="0;b=\\"\\""\r\nabc\r\n' + END,
    ),
    "trailers do not become fields": (
        ["POST / abc", "GET /hidden"],
        0,
        CHUNKS + b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nX_Sum: 2\r\n\r\n" + HIDDEN,
    ),
    "one empty line before a request": (["GET /hidden"], 0, b"\r\n" + HIDDEN),
    "an empty line after a body": (
        ["POST / abc", "GET /hidden"],
        0,
        post(b"Content-Length: 3") + b"abc\r\n" + HIDDEN,
    ),
    "absolute target beside another host": (
        ["GET http://b/x"],
        0,
        head(line=b"GET http://b/x HTTP/1.1"),
    ),
    "good, then bad, then good": (["GET /hidden"], 400, HIDDEN + b"GET /\n\r\n" + HIDDEN),
    "good, then two empty lines": (["GET /hidden"], 400, HIDDEN + b"\r\n\r\n" + HIDDEN),
    "chunked, then garbage": (
        ["POST / abc"],
        400,
        CHUNKS + b"3\r\nabc\r\n" + END + b"\x00" + HIDDEN,
    ),
    "body one byte longer than its length": (
        ["POST / abc", "dGET /hidden"],
        0,
        post(b"Content-Length: 3") + b"abcd" + HIDDEN,
    ),
    "head that is the last one with more": (
        ["GET /hidden", "GET /hidden", "GET /hidden2"],
        0,
        HIDDEN + HIDDEN + HIDDEN.replace(b"/hidden", b"/hidden2"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    status, data = REFUSED[name]
    seen = cut_everywhere(data)
    assert (seen.requests, seen.refused) == ([], status)


@pytest.mark.parametrize("name", ANSWERED)
def test_answered_once(name: str) -> None:
    requests, status, data = ANSWERED[name]
    seen = cut_everywhere(data)
    assert (seen.requests, seen.refused, seen.waiting) == (requests, status, False)


def test_there_are_enough_cases() -> None:
    assert len(REFUSED) + len(ANSWERED) >= 100
