//! Hosts that cut connections, refuse requests and send false answers.

use std::time::Duration;

use lockstep_hub::{Meter, Token, TokenSource};
use lockstep_tests::hub::Trick;

use crate::downloads::{SIZE, Scene, WEIGHTS, is_partial, whole};

#[tokio::test]
async fn cut_downloads_resume_where_they_ended() {
    let scene = Scene::new().await;
    // There are more cuts than the client repeats a request, but each request gets one piece further.
    let storage = format!("/{WEIGHTS}");
    for cut in [5000, 4097, 4500, 2000, 500] {
        scene.hub.play_storage(&storage, 1, Trick::Cut(cut));
    }
    whole(&scene.fetch().await.unwrap());
    let asked: Vec<_> = scene.hub.asked().into_iter().filter(|asked| asked.storage).collect();
    let starts: Vec<&str> = asked.iter().map(|asked| asked.range.as_deref().unwrap()).collect();
    assert_eq!(starts[..2], ["bytes=0-16383", "bytes=5000-16383"], "also within a piece: {starts:?}");
    assert_eq!(asked.len(), SIZE.div_ceil(4 * 4096) + 5);
}

#[tokio::test]
async fn a_host_without_ranges_is_read_whole() {
    let scene = Scene::new().await;
    scene.hub.play_storage(WEIGHTS, 1000, Trick::NoRanges);
    whole(&scene.fetch().await.unwrap());
    assert_eq!(scene.hub.asked().iter().filter(|asked| asked.storage).count(), 1);
}

#[tokio::test]
async fn busy_hosts_are_asked_again_and_then_given_up() {
    let scene = Scene::new().await;
    scene.hub.play("/api/", 2, Trick::Status(503, None));
    scene.hub.play("config.json", 1, Trick::Status(429, Some(3600)));
    scene.hub.play_storage(WEIGHTS, 3, Trick::Status(500, None));
    let fetched = tokio::time::timeout(Duration::from_secs(120), scene.fetch()).await;
    whole(&fetched.expect("a pause that was asked for is bounded").unwrap());

    for (part, trick, expected) in [
        ("/api/", Trick::Status(500, None), "hf://org/name at main: the hub answers 500"),
        ("config.json", Trick::Status(429, None), "config.json of hf://org/name: the hub answers 429"),
        (WEIGHTS, Trick::Cut(0), "model.safetensors of hf://org/name"),
    ] {
        let scene = Scene::new().await;
        scene.hub.play(part, 1000, trick);
        let message = scene.fetch().await.unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("after 4 tries"), "{message}");
    }
}

#[tokio::test]
async fn an_expired_link_is_requested_again() {
    let scene = Scene::new().await;
    scene.hub.play_storage(WEIGHTS, 2, Trick::Status(403, None));
    whole(&scene.fetch().await.unwrap());
    let asked = scene.hub.asked();
    let resolved = asked.iter().filter(|asked| !asked.storage && asked.path.ends_with(WEIGHTS)).count();
    assert_eq!(resolved, 3, "the hub was asked for a link for each that had run out");
}

#[tokio::test]
async fn refusals_of_the_hub_name_the_remedy() {
    for (part, code, expected) in [
        ("/api/", 404, ["hf://org/name at main", "none of that name"]),
        ("/api/", 401, ["hf://org/name at main", "set HF_TOKEN"]),
        ("/api/", 403, ["hf://org/name at main", "set HF_TOKEN"]),
        ("config.json", 404, ["config.json of hf://org/name", "none of that name"]),
        ("/api/", 410, ["hf://org/name at main", "the hub answers 410"]),
    ] {
        let mut scene = Scene::new().await;
        scene.hub.play(part, 1, Trick::Status(code, None));
        let message = scene.fetch().await.unwrap_err().to_string();
        assert!(expected.iter().all(|expected| message.contains(expected)), "{code}: {message}");
        if code == 403 {
            scene.config.token = TokenSource::Given(Token::new("hf_x").unwrap());
            scene.hub.play(part, 1, Trick::Status(code, None));
            let message = scene.fetch().await.unwrap_err().to_string();
            assert!(message.contains("accept the model's terms") && !message.contains("hf_x"), "{message}");
        }
    }
}

#[tokio::test]
async fn false_answers_are_refused() {
    for (trick, expected) in [
        (Trick::Longer(7), "more than the 16384 bytes"),
        (Trick::OtherTotal(1), "a part of 100004 bytes, the hub lists 100003"),
        (Trick::OtherRange, "in answer to 0-16383"),
        (Trick::Length(20_000), "20000 bytes are announced, the hub lists 16384"),
        (Trick::Redirect("ftp://127.0.0.1/x".into()), "a redirect from http to ftp"),
        (Trick::Redirect("http://[".into()), "a redirect to a malformed address"),
        (Trick::Status(302, None), "a redirect without an address"),
    ] {
        let scene = Scene::new().await;
        scene.hub.play_storage(WEIGHTS, 1000, trick.clone());
        let message = scene.fetch().await.unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains(WEIGHTS), "{trick:?}: {message}");
    }
    let scene = Scene::new().await;
    scene.hub.play(WEIGHTS, 1000, Trick::Redirect(format!("http://{}/{WEIGHTS}", scene.hub.address)));
    let message = scene.fetch().await.unwrap_err().to_string();
    assert!(message.contains("more than 5 redirects"), "{message}");
}

#[tokio::test]
async fn a_list_with_a_false_size_is_refused() {
    for size in [SIZE as u64 - 3, SIZE as u64 + 3] {
        let scene = Scene::new().await;
        scene.hub.list_size(WEIGHTS, size);
        let message = scene.fetch().await.unwrap_err().to_string();
        assert!(message.contains(&format!("a part of {SIZE} bytes, the hub lists {size}")), "{message}");
    }
    let scene = Scene::new().await;
    scene.hub.list_size(WEIGHTS, u64::MAX / 2);
    let message = scene.fetch().await.unwrap_err().to_string();
    assert!(message.contains("is full") && message.contains("HF_HOME"), "refused before a byte is fetched: {message}");
}

#[tokio::test]
async fn damaged_bytes_are_fetched_again_and_then_given_up() {
    let scene = Scene::new().await;
    scene.hub.play_storage(WEIGHTS, 1, Trick::Damaged);
    whole(&scene.fetch().await.unwrap());

    for name in [WEIGHTS, "config.json"] {
        let scene = Scene::new().await;
        scene.hub.play(name, 1000, Trick::Damaged);
        let snapshot = scene.resolve().await.unwrap();
        let message = scene.download(&snapshot, &Meter::new().0).await.unwrap_err().to_string();
        assert!(message.contains(&format!("{name} is not what the hub lists")), "{message}");
        assert!(!is_partial(&scene, &snapshot, name), "nothing damaged is left");
    }
}

#[tokio::test]
async fn a_cache_that_cannot_be_written_is_named() {
    let mut scene = Scene::new().await;
    let file = scene.folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    scene.config.cache = Some(file.join("cache"));
    let message = scene.fetch().await.unwrap_err().to_string();
    assert!(message.contains(&file.display().to_string()), "{message}");
}
