package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"ginnel/control"
	"ginnel/control/policy"
)

// apiDoc is the part of an OpenAPI document that the tests need.
type apiDoc struct {
	Paths      map[string]map[string]*apiOperation
	Components struct{ Schemas map[string]*schema }
}

type apiOperation struct {
	OperationID string
	RequestBody *struct{ Content map[string]content }
	Responses   map[string]struct{ Content map[string]content }
}

type content struct{ Schema *schema }

type schema struct {
	Ref        string `json:"$ref"`
	Type       string
	Required   []string
	Enum       []string
	Properties map[string]*schema
	Items      *schema
}

func readAPI(t *testing.T) *apiDoc {
	t.Helper()
	var doc apiDoc
	if err := json.Unmarshal(openAPI, &doc); err != nil {
		t.Fatal(err)
	}
	return &doc
}

// check compares a value with a schema.
func (d *apiDoc) check(s *schema, v any, where string) error {
	if name, ok := strings.CutPrefix(s.Ref, "#/components/schemas/"); ok {
		if s = d.Components.Schemas[name]; s == nil {
			return fmt.Errorf("%s: schema %s does not exist", where, name)
		}
	}
	switch v := v.(type) {
	case map[string]any:
		return d.checkObject(s, v, where)
	case []any:
		for _, item := range v {
			if s.Items == nil {
				return fmt.Errorf("%s: unexpected list", where)
			}
			if err := d.check(s.Items, item, where+"[]"); err != nil {
				return err
			}
		}
	case string:
		if s.Type != "string" || len(s.Enum) > 0 && !slices.Contains(s.Enum, v) {
			return fmt.Errorf("%s: %q is not of type %s", where, v, s.Type)
		}
	case float64:
		if s.Type != "integer" && s.Type != "number" {
			return fmt.Errorf("%s: %v is not of type %s", where, v, s.Type)
		}
	case bool:
		if s.Type != "boolean" {
			return fmt.Errorf("%s: %v is not of type %s", where, v, s.Type)
		}
	default:
		return fmt.Errorf("%s: unexpected %v", where, v)
	}
	return nil
}

func (d *apiDoc) checkObject(s *schema, v map[string]any, where string) error {
	for _, name := range s.Required {
		if _, ok := v[name]; !ok {
			return fmt.Errorf("%s: %s is missing", where, name)
		}
	}
	for name, value := range v {
		if s.Properties[name] == nil {
			return fmt.Errorf("%s: %s is not described", where, name)
		}
		if err := d.check(s.Properties[name], value, where+"."+name); err != nil {
			return err
		}
	}
	return nil
}

// The OpenAPI document describes exactly the operations of the server.
func TestAPIIsDescribed(t *testing.T) {
	doc := readAPI(t)
	var described, served []string
	for path, methods := range doc.Paths {
		for method := range methods {
			described = append(described, strings.ToUpper(method)+" "+path)
		}
	}
	for _, op := range new(Server).operations() {
		served = append(served, op.method+" "+apiRoot+op.path)
	}
	slices.Sort(described)
	slices.Sort(served)
	if !slices.Equal(described, served) {
		t.Errorf("described:\n%s\nserved:\n%s", strings.Join(described, "\n"), strings.Join(served, "\n"))
	}
}

// caller calls the API of a server and checks the answers against the OpenAPI document.
type caller struct {
	t      *testing.T
	h      http.Handler
	doc    *apiDoc
	token  string
	called map[string]bool
}

// call returns the status and the answer. op is "METHOD path" with {id} as in the document; id
// replaces it.
func (c *caller) call(op, id, body string) (int, map[string]any) {
	c.t.Helper()
	method, path, _ := strings.Cut(op, " ")
	path, query, _ := strings.Cut(path, "?")
	described := c.doc.Paths[apiRoot+path][strings.ToLower(method)]
	if described == nil {
		c.t.Fatalf("%s is not described", op)
	}
	c.called[method+" "+apiRoot+path] = true
	r := httptest.NewRequest(method, apiRoot+strings.Replace(path, "{id}", id, 1)+"?"+query, strings.NewReader(body))
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	w := httptest.NewRecorder()
	c.h.ServeHTTP(w, r)
	text, _ := io.ReadAll(w.Body)
	status, ok := described.Responses[fmt.Sprint(w.Code)]
	if !ok {
		status = described.Responses["default"]
	}
	var answer map[string]any
	if len(status.Content) > 0 {
		if err := json.Unmarshal(text, &answer); err != nil {
			c.t.Fatalf("%s: %q: %v", op, text, err)
		}
		if err := c.doc.check(status.Content["application/json"].Schema, answer, op); err != nil {
			c.t.Error(err)
		}
	} else if len(text) > 0 {
		c.t.Errorf("%s answers %q", op, text)
	}
	return w.Code, answer
}

// want makes a call and checks the status.
func (c *caller) want(status int, op, id, body string) map[string]any {
	c.t.Helper()
	got, answer := c.call(op, id, body)
	if got != status {
		c.t.Errorf("%s %s %s: got %d %v, want %d", op, id, body, got, answer, status)
	}
	return answer
}

// Every operation answers as described, both on success and on failure.
func TestAPI(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		c := &caller{t: t, h: n.server.AdminHandler(), doc: readAPI(t), called: make(map[string]bool)}
		c.users()
		c.keys(n)
		c.nodes(n)
		c.logins(n)
		c.policy()
		c.tokens()
		for path, methods := range c.doc.Paths {
			for method := range methods {
				if !c.called[strings.ToUpper(method)+" "+path] {
					t.Errorf("%s %s was not called", method, path)
				}
			}
		}
	})
}

func (c *caller) users() {
	c.want(200, "POST users", "", `{"name": "bob", "display_name": "Bob"}`)
	c.want(409, "POST users", "", `{"name": "bob"}`)
	c.want(400, "POST users", "", `{"name": "b b"}`)
	c.want(400, "POST users", "", `{"nam": "x"}`)
	c.want(200, "PATCH users/{id}", "2", `{"name": "rob"}`)
	c.want(404, "PATCH users/{id}", "9", `{"name": "x"}`)
	if list := c.want(200, "GET users?limit=1", "", "")["items"].([]any); len(list) != 1 {
		c.t.Errorf("a page with limit 1 has %d entries", len(list))
	}
	if list := c.want(200, "GET users?after=1", "", "")["items"].([]any); len(list) != 1 {
		c.t.Errorf("got %d entries after the first", len(list))
	}
	c.want(400, "GET users?limit=0", "", "")
	c.want(204, "DELETE users/{id}", "2", "")
	c.want(404, "DELETE users/{id}", "2", "")
	c.want(400, "DELETE users/{id}", "x", "")
}

func (c *caller) keys(n *testNet) {
	made := c.want(200, "POST keys", "",
		`{"user": "alice", "reusable": true, "tags": ["tag:a"], "expiry": "2030-01-01T00:00:00Z"}`)
	if k, _ := made["key"].(string); !strings.HasPrefix(k, authKeyPrefix) {
		c.t.Errorf("the key is %q", k)
	}
	for _, e := range must(n.store.List(c.t.Context(), "")) {
		if strings.Contains(string(e.Value), made["key"].(string)[len(authKeyPrefix):]) {
			c.t.Errorf("the key is stored in plain text at %s", e.Key)
		}
	}
	c.want(404, "POST keys", "", `{"user": "nobody"}`)
	c.want(400, "POST keys", "", `{"user": "alice", "tags": ["a"]}`)
	c.want(400, "POST keys", "", `{"user": "alice", "expiry": "1999-01-01T00:00:00Z"}`)
	c.want(200, "GET keys?user=alice", "", "")
	c.want(404, "GET keys?user=nobody", "", "")
	if k := c.want(200, "POST keys/{id}/expire", "1", ""); k["state"] != "expired" {
		c.t.Errorf("expired: %v", k)
	}
	c.want(404, "POST keys/{id}/expire", "9", "")
	c.want(204, "DELETE keys/{id}", "1", "")
	c.want(404, "DELETE keys/{id}", "1", "")
}

func must[T any](v T, _ uint64, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (c *caller) nodes(n *testNet) {
	k := n.authKey(nil)
	a := n.join("a", k)
	a.host.RoutableIPs = prefixes("10.0.0.0/8", "0.0.0.0/0", "::/0")
	a.update(nil)
	n.join("b", k)
	c.want(200, "GET nodes", "", "")
	if list := c.want(200, "GET nodes?name=b&user=alice", "", "")["items"].([]any); len(list) != 1 {
		c.t.Errorf("got %d nodes named b", len(list))
	}
	c.want(200, "GET nodes/{id}", "1", "")
	c.want(404, "GET nodes/{id}", "9", "")
	c.want(200, "POST nodes/{id}/rename", "1", `{"name": "c"}`)
	c.want(409, "POST nodes/{id}/rename", "1", `{"name": "b"}`)
	c.want(400, "POST nodes/{id}/rename", "1", `{"name": "B"}`)
	c.want(200, "POST nodes/{id}/rename", "1", `{"name": ""}`)
	c.want(200, "POST nodes/{id}/routes", "1", `{"approved": ["10.0.0.0/8", "::/0"]}`)
	c.want(400, "POST nodes/{id}/routes", "1", `{"approved": ["10.0.0.1/8"]}`)
	settle()
	for _, r := range c.want(200, "GET routes", "", "")["items"].([]any) {
		if r := r.(map[string]any); r["approved"] != true || r["primary"] == r["exit"] {
			c.t.Errorf("approved: %v", r)
		}
	}
	c.want(200, "POST nodes/{id}/tags", "1", `{"tags": ["tag:b", "tag:a"]}`)
	c.want(400, "POST nodes/{id}/tags", "1", `{"tags": ["x"]}`)
	c.want(400, "POST nodes/{id}/tags", "1", `{"tags": []}`)
	c.want(200, "POST nodes/{id}/move", "1", `{"user": "alice"}`)
	c.want(404, "POST nodes/{id}/move", "1", `{"user": "x"}`)
	if e := c.want(200, "POST nodes/{id}/expire", "1", `{}`); e["expired"] != true {
		c.t.Errorf("expired: %v", e)
	}
	c.want(400, "POST nodes/{id}/expire", "1", `{"at": "0001-01-01T00:00:00Z"}`)
	c.want(400, "POST nodes/{id}/expire", "1", `{"at": "2030-01-01T00:00:00Z", "never": true}`)
	const at = "2030-01-01T00:00:00Z"
	if e := c.want(200, "POST nodes/{id}/expire", "1", `{"at": "`+at+`"}`); e["expired"] != false || e["expiry"] != at {
		c.t.Errorf("with an expiry: %v", e)
	}
	if e := c.want(200, "POST nodes/{id}/expire", "1", `{"never": true}`); e["expired"] != false || e["expiry"] != nil {
		c.t.Errorf("without an expiry: %v", e)
	}
	c.want(409, "DELETE users/{id}", "1", "")
	c.want(204, "DELETE nodes/{id}?block=true", "1", "")
	c.want(404, "DELETE nodes/{id}", "1", "")
	c.want(200, "GET blocked", "", "")
	c.want(204, "DELETE blocked/{id}", "a", "")
	c.want(404, "DELETE blocked/{id}", "a", "")
}

func (c *caller) logins(n *testNet) {
	waiting := func(host string) string {
		resp, _ := n.newPeer(host).register(nil)
		return strings.TrimPrefix(resp.AuthURL, testURL+loginPath)
	}
	id := waiting("x")
	c.want(200, "GET logins", "", "")
	c.want(404, "POST logins/{id}/approve", id, `{"user": "x"}`)
	c.want(400, "POST logins/{id}/approve", "x", `{"user": "alice"}`)
	c.want(404, "POST logins/{id}/approve", loginPrefix+strings.Repeat("0", loginDigits), `{"user": "alice"}`)
	c.want(200, "POST logins/{id}/approve", id, `{"user": "alice"}`)
	c.want(404, "POST logins/{id}/approve", id, `{"user": "alice"}`)
	id = waiting("y")
	c.want(204, "DELETE logins/{id}", id, "")
	c.want(404, "DELETE logins/{id}", id, "")
}

func (c *caller) policy() {
	if p := c.want(200, "GET policy", "", ""); p["text"] != "" {
		c.t.Errorf("the policy at the start: %v", p)
	}
	c.want(400, "PUT policy", "", "{")
	c.want(413, "PUT policy", "", strings.Repeat(" ", policy.MaxSize+1))
	c.want(200, "POST policy/check", "", webPolicy)
	c.want(400, "POST policy/check", "", "[]")
	c.want(200, "PUT policy", "", webPolicy)
	if p := c.want(200, "GET policy", "", ""); p["text"] != webPolicy {
		c.t.Errorf("the policy is %v", p)
	}
	c.want(204, "DELETE policy", "", "")
}

func (c *caller) tokens() {
	c.want(200, "POST tokens", "", `{"name": "ci"}`)
	c.want(400, "POST tokens", "", `{"expiry": "1999-01-01T00:00:00Z"}`)
	c.want(200, "GET tokens", "", "")
	c.want(204, "DELETE tokens/{id}", "1", "")
	c.want(404, "DELETE tokens/{id}", "1", "")
}

// On the server's port the API requires a token.
func TestAPITokens(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		tok, err := n.server.CreateToken(t.Context(), "ci", time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		c := &caller{t: t, h: n.server, doc: readAPI(t), called: make(map[string]bool)}
		c.want(401, "GET nodes", "", "")
		c.token = n.authKey(nil)
		c.want(401, "GET nodes", "", "")
		c.token = tok.Token
		c.want(200, "GET nodes", "", "")
		time.Sleep(time.Hour)
		c.want(401, "GET nodes", "", "")
	})
}

func get(h http.Handler, method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w
}

func TestPages(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		a := n.join("a", n.authKey(nil))
		login, _ := n.newPeer("<b>").register(nil)
		id := strings.TrimPrefix(login.AuthURL, testURL)
		verify := func(k fmt.Stringer) string { return fmt.Sprintf(`{"NodePublic":%q,"Source":"192.0.2.1"}`, k) }
		for _, c := range []struct {
			method, path, body string
			status             int
			has                string
		}{
			{"GET", "/key?v=131", "", 200, n.server.PublicKey().String()},
			{"GET", "/key?v=99", "", 400, "unsupported client version"},
			{"GET", "/key", "", 400, "version"},
			{"POST", "/ts2021", "", 400, ""},
			{"GET", id, "", 200, "ginnel control nodes approve " + id[len(loginPath):]},
			{"GET", id, "", 200, "&lt;b&gt;"},
			{"GET", loginPath + loginPrefix + strings.Repeat("0", loginDigits), "", 404, "No node is waiting"},
			{"GET", loginPath + "x", "", 400, ""},
			{"POST", id, "", 405, ""},
			{"HEAD", "/machine/ping-response?id=1", "", 200, ""},
			{"POST", "/verify", verify(a.node.Public()), 200, `{"Allow":true}`},
			{"POST", "/verify", verify(control.Node{}.Key), 200, `{"Allow":false}`},
			{"POST", "/verify", strings.Repeat(" ", maxAdmitBody+1), 400, ""},
			{"GET", "/healthz", "", 200, ""},
			{"GET", "/health", "", 200, ""},
			{"GET", "/version", "", 200, "131"},
			{"GET", "/generate_204", "", 204, ""},
			{"GET", "/metrics", "", 404, ""},
			{"GET", "/api/v1/openapi.json", "", 401, ""},
			{"GET", "/other", "", 404, ""},
		} {
			w := get(n.server, c.method, c.path, c.body)
			if w.Code != c.status || !bytes.Contains(w.Body.Bytes(), []byte(c.has)) {
				t.Errorf("%s %s: got %d %s, want %d and %q", c.method, c.path, w.Code, w.Body, c.status, c.has)
			}
		}
		w := get(n.server.AdminHandler(), "GET", "/metrics", "")
		if !strings.Contains(w.Body.String(), `ginnel_control_nodes{state="online"} 1`) {
			t.Errorf("metrics for administrators: got %d %s", w.Code, w.Body)
		}
		n.server.Close()
		if w := get(n.server, "GET", "/healthz", ""); w.Code != 503 {
			t.Errorf("closed: got %d, want 503", w.Code)
		}
	})
}
