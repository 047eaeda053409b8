/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation: an overlay is made before its loop runs, in the order in which its parts
 * need each other: core, key, links, then what the user wants routed. A route may name a port that
 * comes later, so the interfaces are attached by whoever made the overlay, after that. From then on
 * it changes only by control words.
 */
#include "vnet/overlay.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vnet/capture.h"
#include "vnet/control_word.h"

static int core_make(struct overlay *overlay, const struct overlay_options *options,
		     char error[LINK_ERROR_MAX])
{
	const struct core_options core = {
	    .learn = options->learn,
	    .transit = options->transit,
	    .neighbours = options->neighbours,
	};

	overlay->core = core_create(&core);
	if (overlay->core)
		return 0;
	snprintf(error, LINK_ERROR_MAX, "overlay: %s", strerror(errno));
	return -ENOMEM;
}

static int key_read(struct overlay *overlay, const char *path, char error[LINK_ERROR_MAX])
{
	char why[LINK_ERROR_MAX];
	int rc = path ? seal_key_read(path, &overlay->key, why, sizeof(why)) : 0;

	if (rc)
		snprintf(error, LINK_ERROR_MAX, "--key-file: %.380s", why);
	return rc;
}

static int links_make(struct overlay *overlay, const struct overlay_options *options,
		      char error[LINK_ERROR_MAX])
{
	const struct link_env env = {
	    .loop = overlay->loop,
	    .core = overlay->core,
	    .vni = options->vni,
	    .offload = options->offload,
	    .key = options->key_file ? &overlay->key : NULL,
	    .memory = options->memory,
	    .memory_count = options->memory_count,
	    .memory_pinned = options->memory_pinned,
	};
	struct port *port;
	int rc = 0;

	overlay->links = links_create(&env);
	if (!overlay->links) {
		snprintf(error, LINK_ERROR_MAX, "overlay: %s", strerror(ENOMEM));
		return -ENOMEM;
	}
	for (const char **url = options->listens; url && *url && !rc; url++)
		rc = links_listen(overlay->links, "--listen", *url, error);
	for (const char **url = options->links; url && *url && !rc; url++)
		rc = links_add(overlay->links, "--link", *url, &port, error);
	return rc;
}

int overlay_create(struct loop *loop, const struct overlay_options *options, struct overlay **made,
		   char error[LINK_ERROR_MAX])
{
	struct overlay *overlay = calloc(1, sizeof(*overlay));
	int rc;

	if (!overlay) {
		snprintf(error, LINK_ERROR_MAX, "overlay: %s", strerror(ENOMEM));
		return -ENOMEM;
	}
	overlay->loop = loop;
	pthread_mutex_init(&overlay->lock, NULL);
	rc = core_make(overlay, options, error);
	if (!rc)
		rc = key_read(overlay, options->key_file, error);
	if (!rc)
		rc = links_make(overlay, options, error);
	if (!rc && options->routes)
		rc = control_routes(overlay, (const char *const *)options->routes, error);
	if (!rc && options->file)
		rc = control_file(overlay, options->file, error);
	if (rc)
		overlay_destroy(overlay);
	else
		*made = overlay;
	return rc;
}

void overlay_destroy(struct overlay *overlay)
{
	if (!overlay)
		return;
	capture_stop(overlay->capture);
	links_destroy(overlay->links);
	core_destroy(overlay->core);
	free(overlay->routes.routes);
	sodium_memzero(&overlay->key, sizeof(overlay->key));
	pthread_mutex_destroy(&overlay->lock);
	free(overlay);
}

/* A port's kind counts when it is attached, so it is attached anew. */
int overlay_add_tap(struct overlay *overlay, const char *name, char error[LINK_ERROR_MAX])
{
	char url[LINK_ERROR_MAX];
	struct port *port;
	int rc;

	snprintf(url, sizeof(url), "tap://%.300s", name);
	rc = links_add(overlay->links, "--tap", url, &port, error);
	if (rc)
		return rc;
	core_detach(overlay->core, port);
	port->kind = PORT_INTERFACE;
	return core_attach(overlay->core, port);
}

struct core *overlay_core(struct overlay *overlay)
{
	return overlay->core;
}

uint32_t overlay_mtu(const struct overlay *overlay)
{
	uint32_t mtu = 0;

	for (unsigned i = 0; i < core_ports(overlay->core); i++) {
		const struct port *port = core_port(overlay->core, i);

		if (port && port->kind == PORT_LINK && (!mtu || port->mtu < mtu))
			mtu = port->mtu;
	}
	return mtu ? mtu : OVERLAY_MTU_ALONE;
}
