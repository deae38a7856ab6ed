package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"ginnel/internal/sys"
	"ginnel/node"
)

const (
	lockTries = 5
	lockPause = 20 * time.Millisecond
)

// memState is the state directory that is none.
const memState = "mem:"

// stateDir is where a node keeps what must outlive it and what commands need to find it. One node
// runs on a directory at a time.
type stateDir struct {
	path  string   // empty: memory
	lock  *os.File // held while a node runs on it
	clean bool     // it holds nothing that must outlive the node, and is not to be left behind
}

// defaultState is the state directory if none is named; empty if the environment gives no place for
// one.
func defaultState(p program) string {
	if dir := p.getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "ginnel")
	}
	if home := p.getenv("HOME"); home != "" {
		return filepath.Join(home, ".local", "state", "ginnel")
	}
	return ""
}

// openState makes and locks the directory.
func openState(path string) (*stateDir, error) {
	if path == memState {
		return &stateDir{}, nil
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w; --state DIR names another", err)
	}
	if err := checkPrivate(path); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the state directory: %w; --state DIR names another", err)
	}
	if err := tryLock(lock); err != nil {
		lock.Close()
		return nil, fmt.Errorf("another ginnel runs on the state directory %s; stop it, or name another with --state", path)
	}
	if !stillThere(lock) { // the node before us has removed it in between
		lock.Close()
		return openState(path)
	}
	return &stateDir{path: path, lock: lock}, nil
}

// stillThere reports whether a file is the one of its name.
func stillThere(f *os.File) bool {
	own, err := f.Stat()
	named, nerr := os.Stat(f.Name())
	return err == nil && nerr == nil && os.SameFile(own, named)
}

// tryLock takes the lock. It tries more than once: commands that look for a running node hold it
// for a moment.
func tryLock(f *os.File) (err error) {
	for range lockTries {
		if err = sys.Lock(f); err == nil {
			return nil
		}
		time.Sleep(lockPause)
	}
	return err
}

// isLocked reports whether a node runs on the directory. A directory that cannot be looked into is
// taken to be in use.
func isLocked(dir string) bool {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	defer f.Close()
	return sys.Lock(f) != nil
}

// checkPrivate refuses a directory that others may write to: what lies there is trusted. One that
// they may only look into is closed to them, as it would have been made: there are keys in it.
func checkPrivate(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("opening the state directory: %w", err)
	}
	if !fi.IsDir() {
		return fmt.Errorf("the state directory %s is not a directory", path)
	}
	if fi.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("the state directory %s may be written to by others (mode %v); make it 0700", path, fi.Mode().Perm())
	}
	if fi.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows" { // where the bits mean nothing
		if err := os.Chmod(path, 0o700); err != nil {
			return fmt.Errorf("closing the state directory to others: %w", err)
		}
	}
	return nil
}

// running is the file by which commands find the node.
type running struct {
	PID     int      `json:"pid"`
	Proxies []string `json:"proxies"`
	Token   string   `json:"token"` // for requests that change something
}

func (d *stateDir) runningPath() string { return filepath.Join(d.path, "node.json") }

// publish writes the file for commands.
func (d *stateDir) publish(r running) error {
	if d.path == "" {
		return nil
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return d.write(d.runningPath(), b)
}

func (d *stateDir) identityPath() string { return filepath.Join(d.path, "identity.json") }

// loadIdentity reads who the node is; nobody yet if there is no file. A file that makes no sense
// stops the start and is kept: the network knows the node by it.
func (d *stateDir) loadIdentity() (id node.Identity, err error) {
	if d.path == "" {
		return id, nil
	}
	b, err := os.ReadFile(d.identityPath())
	if errors.Is(err, fs.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return id, fmt.Errorf("reading the node's identity: %w", err)
	}
	if err := json.Unmarshal(b, &id); err != nil || id.Machine.IsZero() {
		return id, fmt.Errorf("reading the node's identity: %s is damaged; restore it, or move it away to join as a new node", d.identityPath())
	}
	return id, nil
}

// saveIdentity keeps it, so that it is either the old or the new one whatever happens.
func (d *stateDir) saveIdentity(id node.Identity) error {
	if d.path == "" {
		return nil
	}
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	return d.write(d.identityPath(), append(b, '\n'))
}

// forgetIdentity deletes the keys, and the network map that they give access to; it is no error if
// there are none.
func (d *stateDir) forgetIdentity() error {
	for _, path := range []string{d.mapPath(), d.identityPath()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("deleting the node's keys: %w", err)
		}
	}
	return nil
}

func (d *stateDir) mapPath() string { return filepath.Join(d.path, "netmap.json") }

// saveMap keeps the network map for a start without the server.
func (d *stateDir) saveMap(b []byte) error {
	if d.path == "" {
		return nil
	}
	return d.write(d.mapPath(), b)
}

// loadMap returns what saveMap has kept; nothing if that is none.
func (d *stateDir) loadMap() ([]byte, error) {
	if d.path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(d.mapPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// write replaces a file of the directory.
func (d *stateDir) write(path string, b []byte) error {
	tmp := path + ".new"
	err := writeSynced(tmp, b)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp) // of a full disk, not even the rest of it
		return fmt.Errorf("writing to the state directory: %w", err)
	}
	return nil
}

// writeSynced writes a private file and waits until it is on the disk.
func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// close lets another node have the directory.
func (d *stateDir) close() {
	if d.path == "" {
		return
	}
	os.Remove(d.runningPath())
	if d.clean {
		os.Remove(d.lock.Name())
		os.Remove(d.path) // stays if something else is in it
	}
	d.lock.Close()
}

// newToken makes a secret for the local API.
func newToken() string { return rand.Text() }

// findRunning reads the file of the node that runs on dir.
func findRunning(dir string) (running, error) {
	var r running
	none := fmt.Errorf("no node runs on the state directory %s; start one with 'ginnel up', or name its proxy with --proxy", dir)
	if dir == "" || dir == memState {
		return r, usagef("name the node's state directory with --state, or its proxy with --proxy")
	}
	b, err := os.ReadFile(filepath.Join(dir, "node.json"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !isLocked(dir) { // one that was killed leaves its file behind
		return r, none
	}
	if err != nil {
		return r, fmt.Errorf("finding the node: %w", err)
	}
	if err := json.Unmarshal(b, &r); err != nil || len(r.Proxies) == 0 {
		return r, fmt.Errorf("finding the node: %s is damaged", filepath.Join(dir, "node.json"))
	}
	return r, nil
}

// hostPort turns the text of a proxy's address into network and address.
func hostPort(text string) (network, addr string) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		return "unix", path
	}
	return "tcp", text
}
