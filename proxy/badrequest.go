package proxy

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
)

// refusedByHTTP is all that net/http answers to a request that it cannot parse, before any handler
// runs. Go's own tests hold it to this text; TestMalformedRequestIsExplained fails when it changes.
var refusedByHTTP = []byte("HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n" +
	"Connection: close\r\n\r\n400 Bad Request")

// maxReason is how much of a reason is told, in bytes: it quotes the request.
const maxReason = 300

// Write implements net.Conn. To the answer of net/http to a malformed request it adds what is wrong
// with the request, and closes the connection in such a way that the client gets to read it.
func (c *conn) Write(p []byte) (int, error) {
	if !bytes.Equal(p, refusedByHTTP) {
		return c.Conn.Write(p)
	}
	c.part(append(bytes.Clone(p), ": "+whyMalformed(c.head)+"\n"...))
	return len(p), nil
}

// noteHead remembers what was read last into net/http's buffer, of which p was the rest. As long as
// that buffer is not filled from its start again, it holds the whole head of a request.
func (c *conn) noteHead(p []byte, n int) {
	if n == 0 || !c.http {
		return
	}
	if end := len(c.head); end > 0 && end < cap(c.head) && &c.head[:end+1][end] == &p[0] {
		c.head = c.head[:end+n]
		return
	}
	c.head = p[:n]
}

// whyMalformed says why net/http does not take a head for a request.
func whyMalformed(head []byte) string {
	_, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err == nil {
		return "the request is malformed"
	}
	reason := strings.TrimPrefix(err.Error(), "net/textproto: ")
	return reason[:min(len(reason), maxReason)]
}
