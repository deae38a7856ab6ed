package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// counterService starts a service that answers, at the end of what it is sent, how many bytes that
// were: counter PORTVARIABLE.
func counterService(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: counter NAME")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { ln.Close() })
	ts.Setenv(args[0], fmt.Sprint(ln.Addr().(*net.TCPAddr).Port))
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				n, _ := io.Copy(io.Discard, c)
				fmt.Fprintf(c, "%d bytes\n", n)
			}()
		}
	}()
}

// noProcess makes sure that no process is left that has NAME=VALUE in its environment: noprocess
// NAME=VALUE. One that is ending may take a moment.
func noProcess(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: noprocess NAME=VALUE")
	}
	var left []string
	for range 200 {
		if left = processesWith(args[0]); len(left) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("processes with %s in their environment are left: %q", args[0], left)
}

func processesWith(variable string) (commands []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		env, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(append([]byte{0}, env...), []byte("\x00"+variable+"\x00")) {
			continue
		}
		cmd, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		if err == nil {
			commands = append(commands, strings.ReplaceAll(string(cmd), "\x00", " "))
		}
	}
	return commands
}

// awaitOutput runs a command again and again until its output holds a text: awaitoutput TEXT
// COMMAND ARG...
func awaitOutput(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: [!] awaitoutput TEXT COMMAND ARG...")
	}
	for range 200 {
		if err := ts.Exec(args[1], args[2:]...); err == nil && strings.Contains(ts.ReadFile("stdout"), args[0]) != neg {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("the output of %q stays\n%s", args[1:], ts.ReadFile("stdout"))
}
