package server

import (
	"encoding/json"
	"errors"
	"fmt"

	"ginnel/control/store"
)

// batch is a number of commands that are stored in one transaction.
type batch struct {
	*core
	moment
	cmds   []*command
	txs    []*tx // of the commands that succeeded
	writes int
}

// room reports whether another command fits into the transaction.
func (b *batch) room() bool { return b.writes < store.MaxOps-batchRoom && len(b.cmds) < store.MaxOps }

// take adds a command and runs it.
func (b *batch) take(cmd *command) {
	b.cmds = append(b.cmds, cmd)
	b.runOn(cmd)
}

func (b *batch) runOn(cmd *command) {
	t := &tx{state: b.st, moment: b.moment}
	if cmd.err = cmd.run(t); cmd.err != nil {
		t.rollback()
		return
	}
	cmd.wrote = len(t.writes) > 0
	b.writes += len(t.writes)
	b.txs = append(b.txs, t)
}

// takeWaiting takes a command that waits to be run, if there is one.
func (b *batch) takeWaiting() bool {
	select {
	case cmd := <-b.cmdc:
		b.take(cmd)
		return true
	default:
		return false
	}
}

// takeDue runs the next event that is due, if any. The event is scheduled again for a retry; a
// successful command reschedules or cancels it.
func (b *batch) takeDue() bool {
	if id, ok := b.timers.nodes.pop(b.mono); ok {
		b.timers.nodes.set(id, b.mono.Add(retryDue))
		b.take(&command{run: func(t *tx) error { b.nodeTimeout(t, id); return nil }})
		return true
	}
	if id, ok := b.timers.expiries.pop(b.now); ok {
		b.timers.expiries.set(id, b.now.Add(retryDue))
		b.take(&command{run: func(t *tx) error { b.nodeTimeout(t, id); return nil }})
		return true
	}
	if id, ok := b.timers.elections.pop(b.mono); ok {
		b.timers.elections.set(id, b.mono.Add(retryDue))
		b.take(&command{run: func(t *tx) error { b.storeElection(t, id); return nil }})
		return true
	}
	if id, ok := b.timers.logins.pop(b.mono); ok {
		b.timers.logins.set(id, b.mono.Add(retryDue))
		b.take(&command{run: func(t *tx) error { b.loginTimeout(t, id); return nil }})
		return true
	}
	return false
}

// commit stores the writes of all commands. If the store fails, the commands that wrote fail and
// the others take effect.
func (b *batch) commit() {
	err := b.persist()
	if err == nil {
		return
	}
	b.log.Error("state not stored", "err", err)
	b.metrics.storeErrors.Inc()
	for i := len(b.txs) - 1; i >= 0; i-- {
		b.txs[i].rollback()
	}
	b.txs, b.storage.stale = nil, true
	for _, cmd := range b.cmds {
		switch {
		case cmd.wrote:
			cmd.err = err
		case cmd.err == nil:
			b.rerun(cmd, err)
		}
	}
}

// rerun repeats a command that wrote nothing, after the changes of the others were undone. Without
// them it may have something to write; then it fails too.
func (b *batch) rerun(cmd *command, storeErr error) {
	b.runOn(cmd)
	if cmd.err == nil && cmd.wrote {
		last := b.txs[len(b.txs)-1]
		last.rollback()
		b.txs, cmd.err = b.txs[:len(b.txs)-1], storeErr
	}
}

// persist stores the writes of all commands in one transaction. The last write to a record counts.
func (b *batch) persist() error {
	last := make(map[string]write)
	var paths []string
	for _, t := range b.txs {
		for _, w := range t.writes {
			if _, twice := last[w.path]; !twice {
				paths = append(paths, w.path)
			}
			last[w.path] = w
		}
	}
	if len(paths) == 0 {
		return nil
	}
	var txn store.Txn
	for _, path := range paths {
		txn.If = append(txn.If, store.Condition{Key: path, Revision: b.st.revisions[path]})
		record := last[path].record
		if record == nil {
			txn.Del = append(txn.Del, path)
			continue
		}
		value, err := json.Marshal(record)
		if err != nil {
			return &storeError{fmt.Errorf("encoding %s: %w", path, err)}
		}
		txn.Put = append(txn.Put, store.Put{Key: path, Value: value})
	}
	if err := b.storage.commit(txn); err != nil {
		return &storeError{err}
	}
	b.metrics.transactions.Inc()
	for _, p := range txn.Put {
		b.st.revisions[p.Key] = b.storage.revision
	}
	for _, path := range txn.Del {
		delete(b.st.revisions, path)
	}
	return nil
}

// storeError means that a change was undone because it could not be stored.
type storeError struct{ err error }

func (e *storeError) Error() string { return fmt.Sprintf("storing the change: %v", e.err) }

func (e *storeError) Unwrap() error { return e.err }

func isStoreError(err error) bool {
	_, ok := errors.AsType[*storeError](err)
	return ok || errors.Is(err, errClosed)
}
