package statedir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"ginnel/internal/cli"
	"ginnel/internal/sys"
	"ginnel/node"
)

const (
	lockTries = 5
	lockPause = 20 * time.Millisecond
)

// Memory stands for no directory: the state is in memory.
const Memory = "mem:"

// Dir is a directory with what must outlive a node and with what commands need to find it. Its lock
// allows one node at a time.
type Dir struct {
	Path        string   // empty: memory
	lock        *os.File // held while a node runs on it
	RemoveAtEnd bool     // Close deletes the directory, because nothing in it must outlive the node
}

// Default returns the state directory of a node for which none is named. It is empty if neither
// XDG_STATE_HOME nor HOME is set.
func Default(p cli.Program) string {
	if dir := p.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "ginnel")
	}
	if home := p.Getenv("HOME"); home != "" {
		return filepath.Join(home, ".local", "state", "ginnel")
	}
	return ""
}

// DefaultBeside returns a directory of another name beside the default one, for the state of a
// server. It is empty if there is no default.
func DefaultBeside(p cli.Program, name string) string {
	dir := Default(p)
	if dir == "" {
		return ""
	}
	return filepath.Join(filepath.Dir(dir), name)
}

// Open makes and locks the directory.
func Open(path string) (*Dir, error) {
	if path == Memory {
		return &Dir{}, nil
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w; --state DIR names another", err)
	}
	if err := CheckPrivate(path); err != nil {
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
	if !stillThere(lock) { // the node before has deleted the lock file meanwhile
		lock.Close()
		return Open(path)
	}
	return &Dir{Path: path, lock: lock}, nil
}

// stillThere reports whether the path of an open file still leads to that file.
func stillThere(f *os.File) bool {
	own, err := f.Stat()
	named, nerr := os.Stat(f.Name())
	return err == nil && nerr == nil && os.SameFile(own, named)
}

// tryLock takes the lock. It tries several times, because commands that look for a running node
// hold it for a moment.
func tryLock(f *os.File) (err error) {
	for range lockTries {
		if err = sys.Lock(f); err == nil {
			return nil
		}
		time.Sleep(lockPause)
	}
	return err
}

// IsLocked reports whether a node runs on the directory. If the lock cannot be opened, the answer
// is yes.
func IsLocked(dir string) bool {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	defer f.Close()
	return sys.Lock(f) != nil
}

// CheckPrivate refuses a directory that others may write to, because its content is trusted. If
// others may only read it, CheckPrivate takes that right away, because there are keys in it.
func CheckPrivate(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("opening the state directory: %w", err)
	}
	if !fi.IsDir() {
		return fmt.Errorf("the state directory %s is not a directory", path)
	}
	if fi.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("the state directory %s may be written to by others (mode %v); make it 0700", path,
			fi.Mode().Perm())
	}
	if fi.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows" { // where these bits mean nothing
		if err := os.Chmod(path, 0o700); err != nil {
			return fmt.Errorf("closing the state directory to others: %w", err)
		}
	}
	return nil
}

// Running is the content of the file by which commands find the running node.
type Running struct {
	PID     int      `json:"pid"`
	Proxies []string `json:"proxies"`
	Token   string   `json:"token"` // for requests that change something
}

func (d *Dir) runningPath() string { return filepath.Join(d.Path, "node.json") }

// Publish writes the file by which commands find the node.
func (d *Dir) Publish(r Running) error {
	if d.Path == "" {
		return nil
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return d.write(d.runningPath(), b)
}

func (d *Dir) identityPath() string { return filepath.Join(d.Path, "identity.json") }

// LoadIdentity reads the identity of the node. It is zero if there is no file. A damaged file is an
// error and is kept, because the network knows the node by the keys in it.
func (d *Dir) LoadIdentity() (id node.Identity, err error) {
	if d.Path == "" {
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
		return id, fmt.Errorf("reading the node's identity: %s is damaged; restore it, or move it away to join as a new node",
			d.identityPath())
	}
	return id, nil
}

// SaveIdentity replaces the identity. After a crash the file holds either the old one or the new
// one.
func (d *Dir) SaveIdentity(id node.Identity) error {
	if d.Path == "" {
		return nil
	}
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	return d.write(d.identityPath(), append(b, '\n'))
}

// ForgetIdentity deletes the keys and the network map that they give access to. Files that do not
// exist are no error.
func (d *Dir) ForgetIdentity() error {
	for _, path := range []string{d.mapPath(), d.identityPath()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("deleting the node's keys: %w", err)
		}
	}
	return nil
}

func (d *Dir) mapPath() string { return filepath.Join(d.Path, "netmap.json") }

// SaveMap keeps the network map, so that the node can start while the server is away.
func (d *Dir) SaveMap(b []byte) error {
	if d.Path == "" {
		return nil
	}
	return d.write(d.mapPath(), b)
}

// LoadMap returns the map that SaveMap has kept, or nil.
func (d *Dir) LoadMap() ([]byte, error) {
	if d.Path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(d.mapPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// write replaces a file of the directory in one step.
func (d *Dir) write(path string, b []byte) error {
	tmp := path + ".new"
	err := writeSynced(tmp, b)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp) // do not leave a part of it on a full disk
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

// Close unlocks the directory.
func (d *Dir) Close() {
	if d.Path == "" {
		return
	}
	os.Remove(d.runningPath())
	if d.RemoveAtEnd {
		os.Remove(d.lock.Name())
		os.Remove(d.Path) // fails if something else is in it
	}
	d.lock.Close()
}

// FindRunning reads the file of the node that runs on dir. If none runs, that is an error.
func FindRunning(dir string) (Running, error) {
	var r Running
	none := fmt.Errorf(
		"no node runs on the state directory %s; start one with 'ginnel up', or name its proxy with --proxy", dir)
	if dir == "" || dir == Memory {
		return r, cli.Usagef("name the node's state directory with --state, or its proxy with --proxy")
	}
	b, err := os.ReadFile(filepath.Join(dir, "node.json"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !IsLocked(dir) { // a killed node leaves its file behind
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
