//! The description of the API is stored with the sources, and is about this API.

use std::path::Path;

use super::*;

/// `UPDATE_SCHEMAS=1 cargo test` writes it anew.
#[test]
fn the_stored_description_is_current() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/openapi.json");
    let current = crate::api::openapi_json();
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        std::fs::write(&file, &current).unwrap();
    }
    let stored = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        stored == current,
        "schemas/openapi.json is not current; UPDATE_SCHEMAS=1 cargo test writes it anew"
    );
}

#[tokio::test]
async fn every_described_operation_is_there_and_describes_its_problems() {
    let api = Api::start().await;
    let description: Value = serde_json::from_str(&crate::api::openapi_json()).unwrap();
    assert!(
        description["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")),
        "{description}"
    );
    let mut operations = 0;
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations += 1;
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path}");
            let problem = &responses["401"]["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(problem, "#/components/schemas/Problem", "{method} {path}");
            let id = "01989c5e-7c1f-7d6e-8f6b-0d3f4a5b6c7d";
            let path = path
                .replace("{tenant}", "default")
                .replace("{camera}", id)
                .replace("{server}", id)
                .replace("{position}", "1");
            let answer = api.ask(&method.to_uppercase(), &path, &[], "").await;
            assert!(
                answer.status != 405 && !answer.text.contains("no_such_path"),
                "{method} {path}: {answer:?}"
            );
        }
    }
    assert_eq!(operations, 33);
    let schemas = description["components"]["schemas"].as_object().unwrap();
    for reference in references(&description) {
        let name = reference.strip_prefix("#/components/schemas/").unwrap();
        assert!(schemas.contains_key(name), "{reference} leads nowhere");
    }
}

fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| match value.as_str() {
                Some(reference) if name == "$ref" => vec![reference.to_owned()],
                Some(_) | None => references(value),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(references).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

#[tokio::test]
async fn the_viewer_comes_from_this_binary() {
    let api = Api::start().await;
    let page = api.send(Request::get("/docs/").body(Body::empty()).unwrap()).await.expect(200).text;
    assert!(page.contains("swagger-ui"), "{page}");
    assert!(!page.contains("https://"), "it loads nothing from elsewhere: {page}");
    let described = api.send(Request::get("/openapi.json").body(Body::empty()).unwrap()).await.expect(200);
    let stored: Value = serde_json::from_str(&crate::api::openapi_json()).unwrap();
    assert_eq!(described.json(), stored);
}
