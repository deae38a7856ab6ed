package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// This file answers PingRequests (control specification, section 10.2). Answers go only to the
// server itself, so it cannot make nodes send requests to other hosts. The requests that it can
// tunnel to the node (c2n) change nothing on the node.

const (
	pingTimeout = 15 * time.Second
	pingsAtOnce = 4 // pings that are answered at the same time; more are dropped
	pingC2N     = "c2n"
)

var errForeignPing = errors.New("URL of the ping names another host")

// pingLimit bounds how many pings are answered.
type pingLimit struct {
	mu      sync.Mutex
	last    string // URL of the last ping: a server may repeat it in several frames
	running int
}

// admit reports whether to answer the ping with this URL. If so, the caller calls done afterwards.
func (l *pingLimit) admit(url string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if url == "" || url == l.last || l.running == pingsAtOnce {
		return false
	}
	l.last = url
	l.running++
	return true
}

func (l *pingLimit) done() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
}

// ping is a PingRequest that is being answered.
type ping struct {
	c   *Client
	req *PingRequest
}

// answerPing starts answering a ping, unless it is a repetition or too many are running.
func (c *Client) answerPing(req *PingRequest) {
	if !c.pings.admit(req.URL) {
		c.log.Debug("server's ping ignored: repeated, or too many at once")
		return
	}
	if !c.calls.start(&c.wg, (&ping{c, req}).run) {
		c.pings.done()
	}
}

func (p *ping) run() {
	defer p.c.pings.done()
	ctx, release, err := p.c.calls.begin(context.Background())
	if err != nil {
		return
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	switch err := p.answer(ctx); {
	case err != nil:
		p.c.log.Warn("server's ping not answered", "types", p.req.Types, "err", err)
	case p.req.Log:
		p.c.log.Info("server's ping answered", "types", p.req.Types)
	}
}

func (p *ping) answer(ctx context.Context) error {
	u, err := url.Parse(p.req.URL)
	if err != nil || u.Host == "" {
		return errors.New("URL of the ping is malformed")
	}
	switch p.req.Types {
	case "":
		return p.reply(ctx, http.MethodHead, u, nil)
	case pingC2N:
		p.req.URLIsNoise = true // c2n answers always go through the channel
		return p.reply(ctx, http.MethodPost, u, serveC2N(p.req.Payload))
	}
	for kind := range strings.SplitSeq(p.req.Types, ",") {
		if err := p.measure(ctx, u, kind); err != nil {
			return err
		}
	}
	return nil
}

// measure pings a peer in one of the ways that the request lists and sends the result.
func (p *ping) measure(ctx context.Context, u *url.URL, kind string) error {
	result := PingResponse{Type: kind, IP: p.req.IP.String(), Err: "not supported"}
	if p.c.cfg.Ping != nil {
		result = p.c.cfg.Ping(ctx, kind, p.req.IP)
	}
	doc, err := json.Marshal(&result)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	return p.reply(ctx, http.MethodPost, u, doc)
}

// reply sends an answer: through the channel, or outside it and then only to the server's own host.
func (p *ping) reply(ctx context.Context, method string, u *url.URL, body []byte) error {
	var resp *http.Response
	var err error
	switch {
	case p.req.URLIsNoise:
		resp, _, err = p.c.do(ctx, method, u, body)
	case !strings.EqualFold(u.Hostname(), p.c.url.Hostname()) || u.Scheme != "http" && u.Scheme != "https":
		return errForeignPing
	default:
		resp, err = p.c.doWeb(ctx, method, u, body)
	}
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// serveC2N serves the HTTP request in the payload of a ping ("control to node") and returns the
// bytes of the HTTP response. The only path is /echo, which returns the body of the request.
func serveC2N(payload []byte) []byte {
	answer := http.Response{StatusCode: http.StatusBadRequest, ProtoMajor: 1, ProtoMinor: 1}
	body := []byte("unknown request\n")
	if req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(payload))); err == nil && req.URL.Path == "/echo" {
		if echo, err := io.ReadAll(req.Body); err == nil {
			answer.StatusCode, body = http.StatusOK, echo
		}
	}
	answer.ContentLength = int64(len(body))
	answer.Body = io.NopCloser(bytes.NewReader(body))
	var b bytes.Buffer
	answer.Write(&b) // writing to memory cannot fail
	return b.Bytes()
}
