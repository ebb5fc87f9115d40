-- What wrk sends, by the name of a kind of request, and the line it reports with.

local BROWSER = table.concat({
  "Host: www.example.com",
  "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
  "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
  "Accept-Language: en-US,en;q=0.7,de;q=0.3",
  "Accept-Encoding: gzip, deflate, br, zstd",
  "Referer: https://www.example.com/articles/2024/overview?page=2&sort=date",
  "Cookie: sessionid=3mz8q1kx0v7c5t2b9n4l6w; csrftoken=Qm9Zb2x5d3JhYmJpdHNhbmRmb3hlcw; theme=dark; "
    .. "consent=2024-05-01; _ga=GA1.1.1234567890.1714550400; lang=en-GB; seen=1714550400",
  "Sec-Fetch-Dest: document",
  "Sec-Fetch-Mode: navigate",
  "Sec-Fetch-Site: same-origin",
  "Upgrade-Insecure-Requests: 1",
  "Connection: keep-alive",
}, "\r\n") .. "\r\n\r\n"

local count = 0

function init(args)
  local kind = args[1]
  wrk.path = "/hello"
  if kind == "browser" then
    local head = "GET /hello HTTP/1.1\r\n" .. BROWSER
    request = function() return head end
  elseif kind == "varied" then
    request = function()
      count = count + 1
      return "GET /hello?item=" .. count .. " HTTP/1.1\r\n" .. BROWSER
    end
  elseif kind == "browser-close" then
    local head = "GET /hello HTTP/1.1\r\n" .. BROWSER:gsub("keep%-alive\r\n\r\n$", "close\r\n\r\n")
    request = function() return head end
  elseif kind == "close" then
    wrk.headers["Connection"] = "close"
  elseif kind == "post" then
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "application/octet-stream"
    wrk.body = string.rep("x", 65536)
  elseif kind ~= "bare" then
    error("no such kind of request: " .. tostring(kind))
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    "RESULT requests=%d usec=%d p50=%d p99=%d status=%d broken=%d\n",
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
