package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"
)

// service listens on a port that the script gets in a variable, and has each connection served.
func service(ts *testscript.TestScript, variable string, serve func(*net.TCPConn)) {
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	ts.Check(err)
	ts.Defer(func() { ln.Close() })
	ts.Setenv(variable, fmt.Sprint(ln.Addr().(*net.TCPAddr).Port))
	go func() {
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			go func() { defer c.Close(); serve(c) }()
		}
	}()
}

// speakFirst starts a service that says something, ends its side of the conversation, and then
// keeps what it is sent in a file: speaker NAME FILE.
func speakFirst(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: speaker NAME FILE")
	}
	path := ts.MkAbs(args[1])
	service(ts, args[0], func(c *net.TCPConn) {
		io.WriteString(c, "that is all\n")
		c.CloseWrite()
		b, err := io.ReadAll(c)
		if err == nil {
			os.WriteFile(path+".new", b, 0o600)
			os.Rename(path+".new", path)
		}
	})
}

// serveSSH starts an SSH server that lets everybody in; the command "cat" gives back its input,
// git's command for a fetch is run in the directory of the script, any other ends with status 7:
// sshserver NAME.
func serveSSH(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: sshserver NAME")
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	ts.Check(err)
	signer, err := ssh.NewSignerFromKey(private)
	ts.Check(err)
	cfg := &ssh.ServerConfig{NoClientAuth: true}
	cfg.AddHostKey(signer)
	service(ts, args[0], func(c *net.TCPConn) {
		conn, channels, requests, err := ssh.NewServerConn(c, cfg)
		if err != nil {
			return
		}
		defer conn.Close()
		go ssh.DiscardRequests(requests)
		for nc := range channels {
			ch, requests, err := nc.Accept()
			if err != nil {
				return
			}
			go runSSH(ch, requests, ts.Getenv("WORK"))
		}
	})
}

func runSSH(ch ssh.Channel, requests <-chan *ssh.Request, dir string) {
	for r := range requests {
		r.Reply(r.Type == "exec", nil)
		if r.Type != "exec" {
			continue
		}
		status := struct{ Status uint32 }{7}
		var command struct{ Line string }
		if ssh.Unmarshal(r.Payload, &command) == nil {
			switch {
			case command.Line == "cat":
				io.Copy(ch, ch)
				status.Status = 0
			case strings.HasPrefix(command.Line, "git-upload-pack "):
				git := exec.Command("sh", "-c", command.Line)
				git.Dir, git.Stdin, git.Stdout = dir, ch, ch
				if git.Run() == nil {
					status.Status = 0
				}
			}
		}
		ch.SendRequest("exit-status", false, ssh.Marshal(&status))
		ch.Close()
	}
}
