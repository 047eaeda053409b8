/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The private data of InfiniBand's connection requests, answers and rejections, between two
 * overlays on an adapter that is not there (fake_verbs.c).
 *
 * The input is a byte (bit 0: links of type ud) and records, one for each piece of private data
 * that comes: a byte (bit 7: its length is what bits 0 to 5 say) and as many bytes as bits 0 to 5
 * say, which are laid over it by exclusive or. After the last record it is left as it is. What is
 * left as it was from the start must bring the links up.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/unit/fake_verbs.h"
#include "vnet/core.h"
#include "vnet/link.h"
#include "vnet/loop.h"

#define TURNS	   64 /* enough for links to come up, if none is refused */
#define LENGTH	   0x3f
#define LENGTH_SET 0x80

static struct script {
	const uint8_t *data;
	size_t size;
	uint8_t *last; /* exactly as long as said, so that a sanitizer sees its end */
	int changed;
} script;

struct side {
	struct core *core;
	struct links *links;
	struct port *port;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(int condition)
{
	if (!condition)
		abort();
}

/* For datagrams this is param.ud's, too. */
static void private_change(struct rdma_conn_param *param)
{
	size_t n = script.data[0] & LENGTH;
	size_t len = script.data[0] & LENGTH_SET ? n : param->private_data_len;

	if (n > script.size - 1)
		n = script.size - 1;
	script.last = calloc(1, len ? len : 1);
	if (param->private_data)
		memcpy(script.last, param->private_data,
		       len < param->private_data_len ? len : param->private_data_len);
	for (size_t i = 0; i < n && i < len; i++)
		script.last[i] ^= script.data[1 + i];
	param->private_data = script.last;
	param->private_data_len = (uint8_t)len;
	script.data += 1 + n;
	script.size -= 1 + n;
	script.changed = 1;
}

static int event_get(struct rdma_event_channel *channel, struct rdma_cm_event **event)
{
	int err = fake_verbs.get_cm_event(channel, event);

	free(script.last);
	script.last = NULL;
	if (!err && script.size &&
	    ((*event)->param.conn.private_data || (*event)->event == RDMA_CM_EVENT_REJECTED))
		private_change(&(*event)->param.conn);
	return err;
}

static void side_open(struct side *side, const struct link_env *with, const char *own,
		      const char *peer)
{
	struct link_env env = *with;
	char error[LINK_ERROR_MAX];

	env.core = side->core = core_create(NULL);
	side->links = links_create(&env);
	expect(!links_listen(side->links, "--listen", own, error));
	expect(!links_add(side->links, "--link", peer, &side->port, error));
}

static int is_up(const struct side *side)
{
	struct link_status status;

	side->port->ops->status(side->port, &status);
	expect(memchr(status.error, 0, sizeof(status.error)) != NULL);
	return status.state == LINK_UP;
}

static void side_close(struct side *side)
{
	links_destroy(side->links);
	core_destroy(side->core);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const urls[2][2] = {{"ib://10.0.0.1", "ib://10.0.0.2"},
					       {"ib://10.0.0.1,type=ud", "ib://10.0.0.2,type=ud"}};
	static struct loop *loop;
	const char *const *url = urls[size && data[0] & 1];
	struct ib_calls calls = fake_verbs;
	struct link_env env = {.vni = 1, .ib_calls = &calls};
	struct side a, b;
	int up = 0;

	if (!loop)
		loop = loop_create(64);
	env.loop = loop;
	calls.get_cm_event = event_get;
	script = (struct script){.data = data + 1, .size = size ? size - 1 : 0};
	fake_reset();
	side_open(&a, &env, url[0], url[1]);
	side_open(&b, &env, url[1], url[0]);
	for (int i = 0; i < TURNS && !up; i++) {
		loop_stop(loop);
		expect(!loop_run(loop));
		up = is_up(&a) & is_up(&b);
	}
	expect(up || script.changed);
	side_close(&b);
	side_close(&a);
	expect(!fake.live);
	free(script.last);
	script.last = NULL;
	return 0;
}
