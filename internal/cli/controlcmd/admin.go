package controlcmd

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"ginnel/control/server"
	"ginnel/internal/cli"
	"ginnel/internal/egress"
)

const (
	adminTimeout  = 30 * time.Second
	maxAnswer     = 256 << 20
	maxSocketPath = 103 // the smallest limit of all systems (sockaddr_un)
)

// socketPath returns the path of the socket by which a server on a state directory is administered.
func socketPath(dir string) string { return filepath.Join(dir, "admin.sock") }

// listenAdmin opens the admin socket. The caller holds the lock of the directory, so an old socket
// may be replaced.
func listenAdmin(dir string) (net.Listener, error) {
	path := socketPath(dir)
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("opening the admin socket: the path %s has more than %d bytes; use a shorter --state", path,
			maxSocketPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("opening the admin socket: %w", err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("opening the admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil { // nobody is served before this
		ln.Close()
		return nil, fmt.Errorf("opening the admin socket: %w", err)
	}
	return ln, nil
}

// adminFlags say which server a command means, and how to print.
type adminFlags struct {
	config, state  string
	server, caFile string
	token          cli.Parsed[cli.SecretText]
	asJSON         bool
}

func (f *adminFlags) add(fs *pflag.FlagSet) {
	f.token = cli.Parsed[cli.SecretText]{Parse: cli.ParseSecret, Kind: "token", Secret: true}
	fs.StringVar(&f.config, "config", "", "YAML `file` with settings, as for 'ginnel control serve'")
	fs.StringVar(&f.state, "state", "", "state `dir`ectory of the server, as for 'ginnel control serve'")
	fs.StringVar(&f.server, "server", "", "`URL` of a server elsewhere, for which --token is needed")
	fs.Var(&f.token, "token", "`token` for --server, or file:PATH with it")
	fs.StringVar(&f.caFile, "ca-file", "", "`file` with further roots of trust for --server, PEM")
	fs.BoolVar(&f.asJSON, "json", false, "print JSON")
}

// open finds the server.
func (f *adminFlags) open(p cli.Program) (*admin, error) {
	if f.server != "" {
		return f.openRemote(p)
	}
	if f.token.Text != "" && f.state == "" {
		return nil, cli.Usagef("--token is for --server URL")
	}
	dir := f.state
	if dir == "" {
		if dir = defaultControlState(p); dir == "" {
			return nil, errNoControlState
		}
	}
	path := socketPath(dir)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return &admin{client: newAdminClient(&http.Transport{DialContext: dial}), base: "http://control", where: path,
		dir: dir}, nil
}

func newAdminClient(t *http.Transport) *http.Client {
	return &http.Client{Transport: t, Timeout: adminTimeout}
}

func (f *adminFlags) openRemote(p cli.Program) (*admin, error) {
	u, err := url.Parse(f.server)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return nil, cli.Usagef("--server %q is not a URL with http:// or https:// and a host", f.server)
	case u.Scheme == "http" && !isPrivateHost(u.Hostname()):
		return nil, cli.Usagef("--server %s: the token would be open to everybody on the way; use https://", f.server)
	case f.token.Text == "":
		return nil, cli.Usagef("--server needs --token: 'ginnel control tokens create' makes one on the server's machine")
	}
	proxy := egress.FromEnvironment(p.Getenv)
	t := &http.Transport{Proxy: func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
		TLSClientConfig: new(tls.Config)}
	if f.caFile != "" {
		pem, err := os.ReadFile(f.caFile)
		if err != nil {
			return nil, cli.Usagef("--ca-file: %w", err)
		}
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, cli.Usagef("--ca-file %s: there is no certificate in it", f.caFile)
		}
		t.TLSClientConfig.RootCAs = roots
	}
	base := &url.URL{Scheme: u.Scheme, Host: u.Host}
	return &admin{client: newAdminClient(t), base: base.String(), where: base.String(), token: string(f.token.Value)}, nil
}

// admin speaks with a coordination server as its administrator.
type admin struct {
	client *http.Client
	base   string // URL
	where  string // for errors
	dir    string // its state; empty if it is elsewhere
	token  string
}

// adminError is an answer of the server that refuses a request.
type adminError struct {
	status int
	text   string
}

func (e *adminError) Error() string { return e.text }

// hujson is a request that is sent as it is, not as JSON.
type hujson []byte

// call makes a request with the document in, unless that is nil. It decodes the answer into out,
// unless that is nil.
func (a *admin) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	kind := "application/json"
	switch in := in.(type) {
	case nil:
	case hujson:
		body, kind = bytes.NewReader(in), "application/hujson"
	default:
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+"/api/v1/"+path, body)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", kind)
	}
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return a.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	return a.read(resp, out)
}

// unreachable says why there was no answer.
func (a *admin) unreachable(ctx context.Context, err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	switch gone := errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED); {
	case ctx.Err() != nil:
		return err
	case a.dir != "" && gone:
		err = fmt.Errorf(
			"no coordination server runs on the state directory %s; start one with 'ginnel control serve', "+
				"or name one with --state, or with --server and --token", a.dir)
	case a.dir != "" && errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the coordination server on %s is another user's: %w", a.dir, err)
	default:
		err = fmt.Errorf("asking the coordination server at %s: %w", a.where, err)
	}
	return cli.WithStatus(cli.ExitControl, err)
}

func (a *admin) read(resp *http.Response, out any) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("asking the coordination server at %s: %w", a.where, err)
	}
	switch {
	case resp.StatusCode == http.StatusUnauthorized && a.token != "":
		return cli.WithStatus(cli.ExitRefused,
			fmt.Errorf(
				"the coordination server at %s does not take the token; "+
					"'ginnel control tokens create' on its machine makes another", a.where))
	case resp.StatusCode >= 300:
		var e struct{ Error string }
		if json.Unmarshal(b, &e) == nil && e.Error != "" {
			return a.refused(&adminError{resp.StatusCode, e.Error})
		}
		return fmt.Errorf("asking the coordination server at %s: %s; is it one of ginnel?", a.where, resp.Status)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("asking the coordination server at %s: what answers there is not one of ginnel", a.where)
	}
	return nil
}

// refused returns a usage error if the server calls the request bad, and e otherwise.
func (a *admin) refused(e *adminError) error {
	if e.status == http.StatusBadRequest {
		return cli.Usage(e)
	}
	return e
}

// listAll gets all parts of a list.
func listAll[T any](ctx context.Context, a *admin, path string, query url.Values) ([]T, error) {
	all := []T{}
	if query == nil {
		query = make(url.Values)
	}
	for {
		var part server.Page[T]
		if err := a.call(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &part); err != nil {
			return nil, err
		}
		all = append(all, part.Items...)
		if part.Next == 0 {
			return all, nil
		}
		query.Set("after", fmt.Sprint(part.Next))
	}
}

// inProcess is an http.RoundTripper that calls a handler of this process.
type inProcess struct{ h http.Handler }

// RoundTrip implements http.RoundTripper.
func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	w := &answer{header: make(http.Header), status: http.StatusOK}
	served := r.Clone(r.Context())
	if served.Body == nil {
		served.Body = http.NoBody
	}
	t.h.ServeHTTP(w, served)
	served.Body.Close()
	return &http.Response{
		Status: fmt.Sprintf("%d %s", w.status, strings.ToLower(http.StatusText(w.status))), StatusCode: w.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: r,
	}, nil
}

// answer is an http.ResponseWriter that keeps the answer.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *answer) Header() http.Header         { return w.header }
func (w *answer) WriteHeader(status int)      { w.status = status }
func (w *answer) Write(b []byte) (int, error) { return w.body.Write(b) }
