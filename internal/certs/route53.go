package certs

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"madmail/internal/fault"
)

// route53 replaces sets of records. Its requests are signed.
type route53 struct{ web }

// The documents of the service.
type (
	route53Zones struct {
		Zones []struct {
			ID   string `xml:"Id"`
			Name string
		} `xml:"HostedZones>HostedZone"`
	}
	route53Set struct {
		Name    string
		Type    string
		TTL     int
		Records []route53Value `xml:"ResourceRecords>ResourceRecord"`
	}
	route53Value struct{ Value string }
	route53Sets  struct {
		Sets []route53Set `xml:"ResourceRecordSets>ResourceRecordSet"`
	}
	route53Change struct {
		Action string
		Set    route53Set `xml:"ResourceRecordSet"`
	}
	route53Request struct {
		XMLName xml.Name        `xml:"https://route53.amazonaws.com/doc/2013-04-01/ ChangeResourceRecordSetsRequest"`
		Changes []route53Change `xml:"ChangeBatch>Changes>Change"`
	}
)

// Add implements Zone.
func (r route53) Add(ctx context.Context, name, value string) error {
	return r.change(ctx, name, func(have []route53Value) []route53Value { return append(have, route53Value{quoted(value)}) })
}

// Remove implements Zone.
func (r route53) Remove(ctx context.Context, name, value string) error {
	return r.change(ctx, name, func(have []route53Value) []route53Value {
		return slices.DeleteFunc(slices.Clone(have), func(v route53Value) bool { return v.Value == quoted(value) })
	})
}

func (r route53) change(ctx context.Context, name string, change func([]route53Value) []route53Value) error {
	return inZone(name, func(zone, _ string) error {
		var found route53Zones
		if err := r.xml(ctx, http.MethodGet, "/hostedzonesbyname?dnsname="+url.QueryEscape(zone), nil, &found); err != nil {
			return err
		}
		id := ""
		for _, z := range found.Zones {
			if strings.TrimSuffix(z.Name, ".") == zone {
				id = strings.TrimPrefix(z.ID, "/hostedzone/")
				break
			}
		}
		if id == "" {
			return fault.Newf(fault.NotFound, "certs: no zone %s", zone)
		}
		path := "/hostedzone/" + url.PathEscape(id) + "/rrset"
		var sets route53Sets
		if err := r.xml(ctx, http.MethodGet, path+"?maxitems=1&name="+url.QueryEscape(name)+"&type=TXT", nil, &sets); err != nil {
			return err
		}
		set := route53Set{Name: name + ".", Type: "TXT", TTL: recordTTL}
		for _, s := range sets.Sets { // the list begins there and does not end there
			if s.Type == "TXT" && strings.TrimSuffix(s.Name, ".") == name {
				set = s
			}
		}
		c := route53Change{Action: "UPSERT", Set: set}
		if c.Set.Records = change(set.Records); len(c.Set.Records) == 0 {
			if len(set.Records) == 0 {
				return nil
			}
			c.Action, c.Set.Records = "DELETE", set.Records // what is removed is named whole
		}
		return r.xml(ctx, http.MethodPost, path, route53Request{Changes: []route53Change{c}}, nil)
	})
}

// xml is call for a service that speaks XML.
func (r route53) xml(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		raw, err := xml.Marshal(in)
		if err != nil {
			return fault.Wrap(fault.Internal, err, "certs: provider")
		}
		body = append([]byte(xml.Header), raw...)
	}
	req, err := http.NewRequestWithContext(ctx, method, r.api+path, bytes.NewReader(body))
	if err != nil {
		return fault.Wrap(fault.Internal, err, "certs: provider")
	}
	id, secret, _ := strings.Cut(r.token, ":")
	sign(req, body, id, secret, "route53", time.Now().UTC())
	raw, err := r.send(req)
	if err != nil || out == nil {
		return err
	}
	if err := xml.Unmarshal(raw, out); err != nil {
		return fault.Wrap(fault.Busy, err, "certs: provider")
	}
	return nil
}

// sign puts Signature Version 4 on a request to a service of the first region, where
// Route 53 is for all.
func sign(req *http.Request, body []byte, id, secret, service string, now time.Time) {
	stamp, day := now.Format("20060102T150405Z"), now.Format("20060102")
	req.Header.Set("X-Amz-Date", stamp)
	hash := sha256.Sum256(body)
	query := strings.ReplaceAll(req.URL.Query().Encode(), "+", "%20") // sorted by key
	canonical := strings.Join([]string{
		req.Method, req.URL.EscapedPath(), query, "host:" + req.URL.Host, "x-amz-date:" + stamp, "", "host;x-amz-date", hex.EncodeToString(hash[:]),
	}, "\n")
	scope := day + "/us-east-1/" + service + "/aws4_request"
	sum := sha256.Sum256([]byte(canonical))
	text := "AWS4-HMAC-SHA256\n" + stamp + "\n" + scope + "\n" + hex.EncodeToString(sum[:])
	key := []byte("AWS4" + secret)
	for _, part := range []string{day, "us-east-1", service, "aws4_request", text} {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(part)) // never fails
		key = m.Sum(nil)
	}
	req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+id+"/"+scope+", SignedHeaders=host;x-amz-date, Signature="+hex.EncodeToString(key))
}
