package node

import (
	_ "embed"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"time"
)

//go:embed status.html
var statusHTML string

var statusPage = template.Must(template.New("status").Funcs(template.FuncMap{"bytes": FormatBytes, "date": formatDate}).Parse(statusHTML))

// statusView is what the page shows.
type statusView struct {
	Status
	Line string // sets the variables of a shell; empty: no program could use a proxy that way
}

func (n *Node) serveStatusPage(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if err := statusPage.Execute(w, statusView{n.Status(), n.shellLine()}); err != nil {
		n.log.Debug("writing the status page", "err", err)
	}
}

// shellLine is what a user of a shell copies to have programs use the first proxy.
func (n *Node) shellLine() string {
	for _, a := range n.proxyAddrs() {
		tcp, ok := a.(*net.TCPAddr)
		if !ok {
			continue
		}
		at := tcp.AddrPort()
		host := at.Addr().Unmap().String()
		if at.Addr().IsUnspecified() {
			host = "127.0.0.1"
		}
		auth := ""
		if n.cfg.ProxyAuth != nil {
			auth = "USER:PASSWORD@"
		}
		url := "http://" + auth + net.JoinHostPort(host, fmt.Sprint(at.Port()))
		return fmt.Sprintf("export http_proxy=%[1]s https_proxy=%[1]s", url)
	}
	return ""
}

// FormatBytes writes a number of bytes for people, in units of 1024.
func FormatBytes(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f := float64(n)
	for _, u := range units[:len(units)-1] {
		if f < 1024 {
			if u == "B" {
				return fmt.Sprintf("%d B", n)
			}
			return fmt.Sprintf("%.1f %s", f, u)
		}
		f /= 1024
	}
	return fmt.Sprintf("%.1f %s", f, units[len(units)-1])
}

// formatDate has the zone, because the reader may be elsewhere.
func formatDate(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") + " UTC" }
