"""What a program does with Kubernetes' client for Python: CustomObjectsApi, CoreV1Api, watches, patches."""

import threading
import unittest

from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException

WHERE = ("rayconcile.dev", "v1", "default", "adaptdljobs")


def job(name, **spec):
    wanted = {"clusterRef": {"name": "none"}, "command": ["true"], "suspend": True, **spec}
    return {"apiVersion": "rayconcile.dev/v1", "kind": "AdaptDLJob", "metadata": {"name": name}, "spec": wanted}


class ClientTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        config.load_kube_config()
        cls.objects, cls.core = client.CustomObjectsApi(), client.CoreV1Api()

    def tearDown(self):
        self.objects.delete_collection_namespaced_custom_object(*WHERE)
        while self.objects.list_namespaced_custom_object(*WHERE)["items"]:
            pass

    def create(self, name, **spec):
        return self.objects.create_namespaced_custom_object(*WHERE, job(name, **spec))

    def test_an_object_is_made_changed_and_deleted(self):
        made = self.create("a", maxReplicas=3)
        self.assertEqual(made["metadata"]["generation"], 1)
        with self.assertRaises(ApiException) as again:
            self.create("a")
        self.assertEqual((again.exception.status, again.exception.reason), (409, "Conflict"))
        merged = self.objects.patch_namespaced_custom_object(*WHERE, "a", {"spec": {"maxReplicas": 5}})
        self.assertEqual(merged["spec"]["maxReplicas"], 5)
        operations = [{"op": "replace", "path": "/spec/maxReplicas", "value": 6}]
        json_patch = {"_content_type": "application/json-patch+json"}
        patched = self.objects.patch_namespaced_custom_object(*WHERE, "a", operations, **json_patch)
        self.assertEqual(patched["spec"]["maxReplicas"], 6)
        tried = self.objects.patch_namespaced_custom_object(*WHERE, "a", {"spec": {"maxReplicas": 9}}, dry_run="All")
        self.assertEqual(tried["spec"]["maxReplicas"], 9)
        found = self.objects.get_namespaced_custom_object(*WHERE, "a")
        self.assertEqual(found["spec"]["maxReplicas"], 6)
        found["spec"]["maxReplicas"] = 7
        replaced = self.objects.replace_namespaced_custom_object(*WHERE, "a", found)
        self.assertEqual(replaced["spec"]["maxReplicas"], 7)
        with self.assertRaises(ApiException) as stale:
            self.objects.replace_namespaced_custom_object(*WHERE, "a", made)
        self.assertEqual(stale.exception.status, 409)
        scale = self.objects.get_namespaced_custom_object_scale(*WHERE, "a")
        self.assertEqual((scale["kind"], scale["spec"]["replicas"]), ("Scale", 0))
        self.objects.patch_namespaced_custom_object_scale(*WHERE, "a", {"spec": {"replicas": 2}})
        self.assertFalse(self.objects.get_namespaced_custom_object(*WHERE, "a")["spec"]["suspend"])
        options = client.V1DeleteOptions(propagation_policy="Foreground", grace_period_seconds=5)
        deleted = self.objects.delete_namespaced_custom_object(*WHERE, "a", body=options)
        self.assertIn("deletionTimestamp", deleted["metadata"])
        with self.assertRaises(ApiException) as invalid:
            self.create("b", maxReplicas="many")
        self.assertEqual(invalid.exception.status, 422)
        self.assertIn("spec.maxReplicas", invalid.exception.body)

    def test_changes_are_watched(self):
        self.create("w")
        listed = self.objects.list_namespaced_custom_object(*WHERE)
        label = {"metadata": {"labels": {"seen": "yes"}}}
        later = threading.Timer(0.2, self.objects.patch_namespaced_custom_object, (*WHERE, "w", label))
        later.start()
        stream = watch.Watch()
        for event in stream.stream(
            self.objects.list_namespaced_custom_object,
            *WHERE,
            resource_version=listed["metadata"]["resourceVersion"],
            timeout_seconds=60,
        ):
            if event["object"]["metadata"].get("labels") == {"seen": "yes"}:
                self.assertEqual(event["type"], "MODIFIED")
                stream.stop()
                break
        else:
            self.fail("the change was not seen")
        later.join()
        events = watch.Watch().stream(self.objects.list_namespaced_custom_object, *WHERE, timeout_seconds=1)
        self.assertEqual([event["type"] for event in events], ["ADDED"], "it ends when its time is up")

    def test_lists_are_selected_and_paged(self):
        for number in range(5):
            self.create(f"p{number}")
        self.objects.patch_namespaced_custom_object(*WHERE, "p1", {"metadata": {"labels": {"odd": "1"}}})
        found = self.objects.list_namespaced_custom_object(*WHERE, label_selector="odd in (1,3)")["items"]
        self.assertEqual([item["metadata"]["name"] for item in found], ["p1"])
        names, token = [], None
        while token != "":
            more = {"_continue": token} if token else {}
            page = self.objects.list_namespaced_custom_object(*WHERE, limit=2, **more)
            names += [item["metadata"]["name"] for item in page["items"]]
            self.objects.patch_namespaced_custom_object(*WHERE, "p4", {"spec": {"priority": len(names)}})
            last, token = page, page["metadata"].get("continue", "")
        self.assertEqual(names, [f"p{number}" for number in range(5)])
        self.assertEqual(last["items"][0]["spec"]["priority"], 0, "all pages are of one moment")

    def test_what_kubernetes_has_itself_is_typed(self):
        self.create("t")
        self.assertEqual([one.metadata.name for one in self.core.list_namespace().items], ["default"])
        self.assertEqual(self.core.list_node().items, [])
        self.assertEqual(self.core.list_pod_for_all_namespaces().items, [])
        for event in self.core.list_namespaced_event("default").items:
            self.assertIn(event.type, ("Normal", "Warning"))
        groups = [group.name for group in client.ApisApi().get_api_versions().groups]
        self.assertIn("rayconcile.dev", groups)
        self.assertEqual(client.VersionApi().get_code().major, "1")
        attributes = client.V1ResourceAttributes(verb="delete", group="rayconcile.dev", resource="adaptdljobs")
        review = client.V1SelfSubjectAccessReview(
            spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
        )
        self.assertTrue(client.AuthorizationV1Api().create_self_subject_access_review(review).status.allowed)


if __name__ == "__main__":
    unittest.main()
