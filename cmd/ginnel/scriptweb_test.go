package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// serveWeb starts two web servers with the files of the directory www, by HTTP and by HTTPS: web
// HTTP HTTPS.
func serveWeb(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: web HTTP HTTPS")
	}
	files := http.FileServer(http.Dir(ts.MkAbs("www")))
	for i, start := range []func(http.Handler) *httptest.Server{httptest.NewServer, httptest.NewTLSServer} {
		srv := start(files)
		ts.Defer(srv.Close)
		u, err := url.Parse(srv.URL)
		ts.Check(err)
		ts.Setenv(args[i], u.Port())
	}
}

// goFetch is a program with the HTTP client that Go programs have: gofetch URL.
func goFetch() {
	resp, err := http.Get(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	io.Copy(os.Stdout, resp.Body)
	os.Exit(0)
}

// scriptCondition knows [pid1], that a process can be the first of a namespace, [python:MODULE],
// and [node:OPTION] for an option that NODE_OPTIONS may have.
func scriptCondition(cond string) (bool, error) {
	kind, name, _ := strings.Cut(cond, ":")
	switch kind {
	case "pid1":
		return exec.Command("unshare", "--map-root-user", "--fork", "--pid", "--mount-proc", "true").Run() == nil, nil
	case "python":
		return exec.Command("python3", "-c", "import "+name).Run() == nil, nil
	case "node":
		out, err := exec.Command("node", "-p", "process.allowedNodeEnvironmentFlags.has('"+name+"')").Output()
		return err == nil && strings.TrimSpace(string(out)) == "true", nil
	}
	return false, fmt.Errorf("unknown condition %q", cond)
}
