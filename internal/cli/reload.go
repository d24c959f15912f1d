package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"madmail/internal/app"
	"madmail/internal/config"
	"madmail/internal/control"
	"madmail/internal/fault"
	"madmail/internal/ops"
)

// reloaded is what the command tells: how, beside what.
type reloaded struct {
	APIURL string `json:"api_url,omitempty"` // "" where there is no admin API
	ops.Reloaded
}

func (s *shell) reload() *cobra.Command {
	var url, scope string
	var insecure bool
	c := &cobra.Command{Use: "reload", Short: "Read configuration and certificates anew", Args: cobra.NoArgs,
		Example: "  madmail reload\n  madmail reload --url https://mail.example.org/api/admin   another server, whose token is here",
		RunE: func(*cobra.Command, []string) error {
			if scope != "full" && scope != "http" {
				return usageError{fmt.Errorf("scope %q is neither full nor http", scope)}
			}
			r, err := s.reloadBy(url, scope, insecure)
			if err != nil {
				return failure{err}
			}
			return s.result("reload", "", r, func(w io.Writer) {
				fmt.Fprintln(w, "Reloaded.")
				for _, l := range append(r.Changes, r.Restart...) {
					fmt.Fprintln(w, "  "+l)
				}
			})
		}}
	c.Flags().StringVar(&url, "url", "", "`URL` of the admin API; without it the control socket is tried first")
	c.Flags().BoolVar(&insecure, "insecure", false, "take any certificate of the admin API")
	c.Flags().StringVar(&scope, "scope", "full", "`what` to read anew, full or http; both are quick and end no session")
	return c
}

// reloadBy reloads by the control socket, else by the admin API, else by a signal.
// Whoever names a URL means that server and no other.
func (s *shell) reloadBy(url, scope string, insecure bool) (reloaded, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	_, conf, dir := s.find()
	run := conf.FindRuntimeDir(dir)
	if url == "" {
		var r reloaded
		raw, err := control.Call(ctx, run, "reload", nil)
		if err == nil {
			err = json.Unmarshal(raw, &r)
		}
		if !errors.Is(err, control.ErrNoServer) {
			var t ops.AdminToken
			if err == nil && s.call("admin-token", nil, &t) == nil { // it may be switched off
				r.APIURL = t.APIURL
			}
			return r, err
		}
	}
	var t ops.AdminToken
	if err := s.call("admin-token", nil, &t); err != nil {
		// A server has the state and does not answer on its socket.
		if pid, ok := process(filepath.Join(run, config.PIDFile)); ok && url == "" && errors.Is(err, app.ErrLocked) && hangUp(pid) == nil {
			return reloaded{Reloaded: ops.Reloaded{Reloaded: true, Changes: []string{fmt.Sprintf("process %d got a signal; it says itself what it cannot read", pid)}}}, nil
		}
		return reloaded{}, err
	}
	if url == "" {
		url = t.APIURL
	}
	return askAPI(ctx, url, t.Token, insecure, scope)
}

// process reads a file with the number of a process.
func process(path string) (pid int, ok bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return pid, err == nil && pid > 1
}

// askAPI reloads by the admin API.
func askAPI(ctx context.Context, url, token string, insecure bool, scope string) (reloaded, error) {
	out := func(err error) (reloaded, error) {
		return reloaded{}, fault.WithHint(fault.Wrap(fault.NotFound, err, "could not reach admin API at "+url), "no server is running, or it listens elsewhere: madmail status")
	}
	body, err := json.Marshal(map[string]any{
		"method": "POST", "resource": "/admin/reload", "headers": map[string]string{"Authorization": "Bearer " + token},
		"body": map[string]any{"scope": scope, "wait": true},
	})
	if err != nil {
		return out(err)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return out(err)
	}
	req.Header.Set("Content-Type", "application/json")
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: insecure}, DisableKeepAlives: true} // the operator said so
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return out(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Status int
		Error  string
		Body   struct {
			Changes []string `json:"changes"`
			Restart []string `json:"restart_needed"`
		}
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer); err != nil {
		return out(fmt.Errorf("its answer, %s, is not that of an admin API: %w", resp.Status, err))
	}
	if answer.Error != "" || answer.Status/100 != 2 {
		return reloaded{}, fault.Newf(fault.Refused, "the admin API at %s answers %d %s", url, answer.Status, answer.Error)
	}
	return reloaded{url, ops.Reloaded{Reloaded: true, Changes: answer.Body.Changes, Restart: answer.Body.Restart}}, nil
}
