BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0007');
CREATE TABLE "annotation_version" (
	id INTEGER NOT NULL, 
	annotation_id INTEGER NOT NULL, 
	project_id INTEGER NOT NULL, 
	task_id INTEGER NOT NULL, 
	updated_at DATETIME NOT NULL, 
	seen_at DATETIME NOT NULL, 
	source VARCHAR(16) NOT NULL, 
	deleted BOOLEAN NOT NULL, 
	content_hash VARCHAR(64) NOT NULL, 
	project_created BIGINT DEFAULT '0' NOT NULL, 
	ordered_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT uq_annotation_version_content UNIQUE (project_id, project_created, annotation_id, updated_at, content_hash, ordered_at)
);
INSERT INTO "annotation_version" VALUES(1,1,7,1,'2026-11-25 08:24:22.871205','2026-11-25 07:24:22.952762','webhook',0,'19e0f08b4c7a90eb3dac18158987ba69472b598ad0f5e0aacef58563059b8af5',0,'2026-11-25 07:24:22.952762');
INSERT INTO "annotation_version" VALUES(2,2,7,2,'2026-11-25 08:24:22.871205','2026-11-25 07:24:22.968363','webhook',0,'7a7ccd60c797a6896b8fa1b38930dffc4155a7c36bfc4a42f7d1088a72f832d8',0,'2026-11-25 07:24:22.968363');
INSERT INTO "annotation_version" VALUES(3,3,7,3,'2026-11-25 08:24:22.871205','2026-11-25 07:24:22.975801','webhook',0,'f3114b2349cd6fb2f427de698a9d5ccccd82df060046236543ada267c58dadef',0,'2026-11-25 07:24:22.975801');
CREATE TABLE candidate (
	id INTEGER NOT NULL, 
	request_id INTEGER NOT NULL, 
	rank INTEGER NOT NULL, 
	region_id VARCHAR(64) NOT NULL, 
	score FLOAT NOT NULL, 
	coco_rle JSON NOT NULL, 
	box_xywh JSON NOT NULL, 
	predicted_iou FLOAT NOT NULL, 
	stability_score FLOAT NOT NULL, source VARCHAR(64) DEFAULT 'proposals' NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(request_id) REFERENCES request (id), 
	UNIQUE (region_id)
);
INSERT INTO "candidate" VALUES(1,1,1,'sm1_1',1.0,'{"size": [48, 64], "counts": "T6<T1000000000000000000000lW2"}','[4, 4, 12, 12]',0.9,0.9,'proposals');
INSERT INTO "candidate" VALUES(2,1,2,'sm1_2',0.5,'{"size": [48, 64], "counts": "TT1<T1000000000000000000000lY1"}','[24, 4, 12, 12]',0.9,0.9,'proposals');
CREATE TABLE event (
	id INTEGER NOT NULL, 
	received_at DATETIME NOT NULL, 
	action VARCHAR(64) NOT NULL, 
	project_id INTEGER, 
	task_id INTEGER, 
	annotation_id INTEGER, 
	body TEXT NOT NULL, state VARCHAR(16) DEFAULT 'waiting' NOT NULL, processed_at DATETIME, problem TEXT, project_created BIGINT DEFAULT '0' NOT NULL, attempts INTEGER DEFAULT '0' NOT NULL, last_request_id INTEGER, source VARCHAR(16) DEFAULT 'webhook' NOT NULL, content_hash VARCHAR(64), 
	PRIMARY KEY (id)
);
INSERT INTO "event" VALUES(1,'2026-11-25 07:24:22.944160','ANNOTATION_CREATED',7,1,1,'{"action": "ANNOTATION_CREATED", "project": {"id": 7, "label_config": "<View>\n  <Style>\n    .saymask-notice form, .saymask-notice [data-testid=htx-textbox-actions] { display: none; }\n    .saymask-notice [data-testid=textarea-regions] { margin-bottom: 4px !important; }\n    .saymask-notice:not(:has([data-testid=textarea-region]))::before { content: ''Type what you mean, press Enter: \"the cat lying on the scooter\u2019s seat\". Every further expression the same way.''; color: #808080; }\n    .lsf-main-content.lsf-requesting .saymask-notice [data-testid=textarea-regions] { display: none; }\n    .lsf-main-content.lsf-requesting .saymask-notice::before { content: ''Searching ...'' !important; color: #B35C00; }\n    .saymask-expression [data-testid=textarea-submit-section] { display: none !important; }\n    .saymask-expression [data-testid=textarea-regions] { display: flex; flex-wrap: wrap; gap: 4px; max-height: 84px; overflow-y: auto; margin: 4px 0 !important; }\n    .saymask-expression .lsf-row { margin: 0; }\n    .lsf-object [class*=filler--] { padding-bottom: 48px; }\n  </Style>\n  <View className=\"saymask-expression\">\n    <TextArea name=\"expression\" toName=\"image\" smart=\"true\" smartOnly=\"true\" editable=\"true\" rows=\"1\" showSubmitButton=\"true\" placeholder=\"What do you mean?\"/>\n  </View>\n  <View className=\"saymask-notice\">\n    <TextArea name=\"saymask_notice\" toName=\"image\" smart=\"false\" editable=\"false\" rows=\"1\" showSubmitButton=\"false\"/>\n  </View>\n  <Image name=\"image\" value=\"$image\" zoom=\"true\" zoomControl=\"true\" negativeZoom=\"true\" defaultZoom=\"auto\"/>\n  <BrushLabels name=\"mask\" toName=\"image\" smart=\"false\">\n    <Label value=\"top-1\" background=\"#E6194B\"/>\n    <Label value=\"top-2\" background=\"#3CB44B\"/>\n    <Label value=\"top-3\" background=\"#4363D8\"/>\n    <Label value=\"top-4\" background=\"#F58231\"/>\n    <Label value=\"top-5\" background=\"#911EB4\"/>\n    <Label value=\"referent\" background=\"#FFE119\"/>\n  </BrushLabels>\n  <KeyPoint name=\"click\" toName=\"image\" smart=\"true\" smartOnly=\"true\" fillColor=\"#00BCD4\" strokeColor=\"#00BCD4\"/>\n  <Rectangle name=\"box\" toName=\"image\" smart=\"true\" smartOnly=\"true\" strokeColor=\"#00BCD4\"/>\n  <TextArea name=\"region_expression\" toName=\"image\" perRegion=\"true\" smart=\"false\" editable=\"true\" rows=\"1\" maxSubmissions=\"1\" displayMode=\"region-list\" placeholder=\"expression of this region\"/>\n  <Choices name=\"verdict\" toName=\"image\" choice=\"single\" smart=\"false\" showInline=\"true\">\n    <Choice value=\"no referent\"/>\n    <Choice value=\"ambiguous\"/>\n  </Choices>\n</View>\n"}, "task": {"id": 1, "data": {"image": "/data/upload/1.png"}}, "annotation": {"id": 1, "result": [{"id": "sm1_2", "to_name": "image", "original_width": 64, "original_height": 48, "image_rotation": 0, "origin": "prediction", "from_name": "mask", "type": "brushlabels", "value": {"format": "rle", "rle": [0, 0, 48, 0, 57, 27, 255, 4, 95, 0, 197, 255, 251, 60, 3, 23, 255, 236, 240, 12, 95, 255, 179, 192, 49, 127, 254, 207, 0, 197, 255, 251, 60, 3, 23, 255, 236, 240, 12, 95, 255, 179, 192, 49, 127, 254, 207, 0, 197, 255, 251, 60, 3, 23, 255, 236, 240, 12, 95, 255, 179, 192, 49, 127, 255, 32, 111, 0, 0], "brushlabels": ["top-2"]}}, {"id": "sm1_2", "to_name": "image", "original_width": 64, "original_height": 48, "image_rotation": 0, "origin": "prediction", "from_name": "region_expression", "type": "textarea", "value": {"text": ["the cat"]}}], "was_cancelled": false, "lead_time": 12.0, "completed_by": 1, "updated_at": "2026-11-25T08:24:22.871205+00:00"}}','understood','2026-11-25 07:24:22.959193',NULL,0,0,NULL,'webhook',NULL);
INSERT INTO "event" VALUES(2,'2026-11-25 07:24:22.945761','ANNOTATION_CREATED',7,2,2,'{"action": "ANNOTATION_CREATED", "project": {"id": 7, "label_config": "<View>\n  <Style>\n    .saymask-notice form, .saymask-notice [data-testid=htx-textbox-actions] { display: none; }\n    .saymask-notice [data-testid=textarea-regions] { margin-bottom: 4px !important; }\n    .saymask-notice:not(:has([data-testid=textarea-region]))::before { content: ''Type what you mean, press Enter: \"the cat lying on the scooter\u2019s seat\". Every further expression the same way.''; color: #808080; }\n    .lsf-main-content.lsf-requesting .saymask-notice [data-testid=textarea-regions] { display: none; }\n    .lsf-main-content.lsf-requesting .saymask-notice::before { content: ''Searching ...'' !important; color: #B35C00; }\n    .saymask-expression [data-testid=textarea-submit-section] { display: none !important; }\n    .saymask-expression [data-testid=textarea-regions] { display: flex; flex-wrap: wrap; gap: 4px; max-height: 84px; overflow-y: auto; margin: 4px 0 !important; }\n    .saymask-expression .lsf-row { margin: 0; }\n    .lsf-object [class*=filler--] { padding-bottom: 48px; }\n  </Style>\n  <View className=\"saymask-expression\">\n    <TextArea name=\"expression\" toName=\"image\" smart=\"true\" smartOnly=\"true\" editable=\"true\" rows=\"1\" showSubmitButton=\"true\" placeholder=\"What do you mean?\"/>\n  </View>\n  <View className=\"saymask-notice\">\n    <TextArea name=\"saymask_notice\" toName=\"image\" smart=\"false\" editable=\"false\" rows=\"1\" showSubmitButton=\"false\"/>\n  </View>\n  <Image name=\"image\" value=\"$image\" zoom=\"true\" zoomControl=\"true\" negativeZoom=\"true\" defaultZoom=\"auto\"/>\n  <BrushLabels name=\"mask\" toName=\"image\" smart=\"false\">\n    <Label value=\"top-1\" background=\"#E6194B\"/>\n    <Label value=\"top-2\" background=\"#3CB44B\"/>\n    <Label value=\"top-3\" background=\"#4363D8\"/>\n    <Label value=\"top-4\" background=\"#F58231\"/>\n    <Label value=\"top-5\" background=\"#911EB4\"/>\n    <Label value=\"referent\" background=\"#FFE119\"/>\n  </BrushLabels>\n  <KeyPoint name=\"click\" toName=\"image\" smart=\"true\" smartOnly=\"true\" fillColor=\"#00BCD4\" strokeColor=\"#00BCD4\"/>\n  <Rectangle name=\"box\" toName=\"image\" smart=\"true\" smartOnly=\"true\" strokeColor=\"#00BCD4\"/>\n  <TextArea name=\"region_expression\" toName=\"image\" perRegion=\"true\" smart=\"false\" editable=\"true\" rows=\"1\" maxSubmissions=\"1\" displayMode=\"region-list\" placeholder=\"expression of this region\"/>\n  <Choices name=\"verdict\" toName=\"image\" choice=\"single\" smart=\"false\" showInline=\"true\">\n    <Choice value=\"no referent\"/>\n    <Choice value=\"ambiguous\"/>\n  </Choices>\n</View>\n"}, "task": {"id": 2, "data": {"image": "/data/upload/2.png"}}, "annotation": {"id": 2, "result": [{"id": "typed", "from_name": "expression", "to_name": "image", "type": "textarea", "origin": "manual", "value": {"text": ["the dog"]}}, {"id": "own", "to_name": "image", "original_width": 64, "original_height": 48, "image_rotation": 0, "origin": "manual", "from_name": "mask", "type": "brushlabels", "value": {"format": "rle", "rle": [0, 0, 48, 0, 57, 27, 255, 4, 119, 0, 197, 255, 251, 60, 3, 23, 255, 236, 240, 12, 95, 255, 179, 192, 49, 127, 254, 207, 0, 197, 255, 251, 60, 3, 23, 255, 236, 240, 12, 95, 255, 179, 192, 49, 127, 254, 207, 0, 197, 255, 251, 60, 3, 23, 255, 236, 240, 12, 95, 255, 179, 192, 49, 127, 255, 32, 87, 0, 0], "brushlabels": ["referent"]}}], "was_cancelled": false, "lead_time": 12.0, "completed_by": 1, "updated_at": "2026-11-25T08:24:22.871205+00:00"}}','understood','2026-11-25 07:24:22.969418',NULL,0,0,NULL,'webhook',NULL);
INSERT INTO "event" VALUES(3,'2026-11-25 07:24:22.946634','ANNOTATION_CREATED',7,3,3,'{"action": "ANNOTATION_CREATED", "project": {"id": 7, "label_config": "<View>\n  <Style>\n    .saymask-notice form, .saymask-notice [data-testid=htx-textbox-actions] { display: none; }\n    .saymask-notice [data-testid=textarea-regions] { margin-bottom: 4px !important; }\n    .saymask-notice:not(:has([data-testid=textarea-region]))::before { content: ''Type what you mean, press Enter: \"the cat lying on the scooter\u2019s seat\". Every further expression the same way.''; color: #808080; }\n    .lsf-main-content.lsf-requesting .saymask-notice [data-testid=textarea-regions] { display: none; }\n    .lsf-main-content.lsf-requesting .saymask-notice::before { content: ''Searching ...'' !important; color: #B35C00; }\n    .saymask-expression [data-testid=textarea-submit-section] { display: none !important; }\n    .saymask-expression [data-testid=textarea-regions] { display: flex; flex-wrap: wrap; gap: 4px; max-height: 84px; overflow-y: auto; margin: 4px 0 !important; }\n    .saymask-expression .lsf-row { margin: 0; }\n    .lsf-object [class*=filler--] { padding-bottom: 48px; }\n  </Style>\n  <View className=\"saymask-expression\">\n    <TextArea name=\"expression\" toName=\"image\" smart=\"true\" smartOnly=\"true\" editable=\"true\" rows=\"1\" showSubmitButton=\"true\" placeholder=\"What do you mean?\"/>\n  </View>\n  <View className=\"saymask-notice\">\n    <TextArea name=\"saymask_notice\" toName=\"image\" smart=\"false\" editable=\"false\" rows=\"1\" showSubmitButton=\"false\"/>\n  </View>\n  <Image name=\"image\" value=\"$image\" zoom=\"true\" zoomControl=\"true\" negativeZoom=\"true\" defaultZoom=\"auto\"/>\n  <BrushLabels name=\"mask\" toName=\"image\" smart=\"false\">\n    <Label value=\"top-1\" background=\"#E6194B\"/>\n    <Label value=\"top-2\" background=\"#3CB44B\"/>\n    <Label value=\"top-3\" background=\"#4363D8\"/>\n    <Label value=\"top-4\" background=\"#F58231\"/>\n    <Label value=\"top-5\" background=\"#911EB4\"/>\n    <Label value=\"referent\" background=\"#FFE119\"/>\n  </BrushLabels>\n  <KeyPoint name=\"click\" toName=\"image\" smart=\"true\" smartOnly=\"true\" fillColor=\"#00BCD4\" strokeColor=\"#00BCD4\"/>\n  <Rectangle name=\"box\" toName=\"image\" smart=\"true\" smartOnly=\"true\" strokeColor=\"#00BCD4\"/>\n  <TextArea name=\"region_expression\" toName=\"image\" perRegion=\"true\" smart=\"false\" editable=\"true\" rows=\"1\" maxSubmissions=\"1\" displayMode=\"region-list\" placeholder=\"expression of this region\"/>\n  <Choices name=\"verdict\" toName=\"image\" choice=\"single\" smart=\"false\" showInline=\"true\">\n    <Choice value=\"no referent\"/>\n    <Choice value=\"ambiguous\"/>\n  </Choices>\n</View>\n"}, "task": {"id": 3, "data": {"image": "/data/upload/3.png"}}, "annotation": {"id": 3, "result": [{"id": "typed", "from_name": "expression", "to_name": "image", "type": "textarea", "origin": "manual", "value": {"text": ["the moon"]}}, {"id": "verdict", "from_name": "verdict", "to_name": "image", "type": "choices", "origin": "manual", "value": {"choices": ["no referent"]}}], "was_cancelled": false, "lead_time": 12.0, "completed_by": 1, "updated_at": "2026-11-25T08:24:22.871205+00:00"}}','understood','2026-11-25 07:24:22.976601',NULL,0,0,NULL,'webhook',NULL);
INSERT INTO "event" VALUES(4,'2026-11-25 07:24:22.983854','ANNOTATION_CREATED',7,4,4,'{"action": "ANNOTATION_CREATED", "project": {"id": 7, "label_config": "<View>\n  <Style>\n    .saymask-notice form, .saymask-notice [data-testid=htx-textbox-actions] { display: none; }\n    .saymask-notice [data-testid=textarea-regions] { margin-bottom: 4px !important; }\n    .saymask-notice:not(:has([data-testid=textarea-region]))::before { content: ''Type what you mean, press Enter: \"the cat lying on the scooter\u2019s seat\". Every further expression the same way.''; color: #808080; }\n    .lsf-main-content.lsf-requesting .saymask-notice [data-testid=textarea-regions] { display: none; }\n    .lsf-main-content.lsf-requesting .saymask-notice::before { content: ''Searching ...'' !important; color: #B35C00; }\n    .saymask-expression [data-testid=textarea-submit-section] { display: none !important; }\n    .saymask-expression [data-testid=textarea-regions] { display: flex; flex-wrap: wrap; gap: 4px; max-height: 84px; overflow-y: auto; margin: 4px 0 !important; }\n    .saymask-expression .lsf-row { margin: 0; }\n    .lsf-object [class*=filler--] { padding-bottom: 48px; }\n  </Style>\n  <View className=\"saymask-expression\">\n    <TextArea name=\"expression\" toName=\"image\" smart=\"true\" smartOnly=\"true\" editable=\"true\" rows=\"1\" showSubmitButton=\"true\" placeholder=\"What do you mean?\"/>\n  </View>\n  <View className=\"saymask-notice\">\n    <TextArea name=\"saymask_notice\" toName=\"image\" smart=\"false\" editable=\"false\" rows=\"1\" showSubmitButton=\"false\"/>\n  </View>\n  <Image name=\"image\" value=\"$image\" zoom=\"true\" zoomControl=\"true\" negativeZoom=\"true\" defaultZoom=\"auto\"/>\n  <BrushLabels name=\"mask\" toName=\"image\" smart=\"false\">\n    <Label value=\"top-1\" background=\"#E6194B\"/>\n    <Label value=\"top-2\" background=\"#3CB44B\"/>\n    <Label value=\"top-3\" background=\"#4363D8\"/>\n    <Label value=\"top-4\" background=\"#F58231\"/>\n    <Label value=\"top-5\" background=\"#911EB4\"/>\n    <Label value=\"referent\" background=\"#FFE119\"/>\n  </BrushLabels>\n  <KeyPoint name=\"click\" toName=\"image\" smart=\"true\" smartOnly=\"true\" fillColor=\"#00BCD4\" strokeColor=\"#00BCD4\"/>\n  <Rectangle name=\"box\" toName=\"image\" smart=\"true\" smartOnly=\"true\" strokeColor=\"#00BCD4\"/>\n  <TextArea name=\"region_expression\" toName=\"image\" perRegion=\"true\" smart=\"false\" editable=\"true\" rows=\"1\" maxSubmissions=\"1\" displayMode=\"region-list\" placeholder=\"expression of this region\"/>\n  <Choices name=\"verdict\" toName=\"image\" choice=\"single\" smart=\"false\" showInline=\"true\">\n    <Choice value=\"no referent\"/>\n    <Choice value=\"ambiguous\"/>\n  </Choices>\n</View>\n"}, "task": {"id": 4, "data": {"image": "/data/upload/4.png"}}, "annotation": {"id": 4, "result": [{"id": "typed", "from_name": "expression", "to_name": "image", "type": "textarea", "origin": "manual", "value": {"text": ["the tree"]}}, {"id": "own4", "to_name": "image", "original_width": 64, "original_height": 48, "image_rotation": 0, "origin": "manual", "from_name": "mask", "type": "brushlabels", "value": {"format": "rle", "rle": [0, 0, 48, 0, 57, 27, 255, 4, 31, 0, 197, 255, 251, 60, 3, 23, 255, 236, 240, 12, 95, 255, 179, 192, 49, 127, 254, 207, 0, 197, 255, 251, 60, 3, 23, 255, 236, 240, 12, 95, 255, 179, 192, 49, 127, 254, 207, 0, 197, 255, 251, 60, 3, 23, 255, 236, 240, 12, 95, 255, 179, 192, 49, 127, 255, 32, 175, 0, 0], "brushlabels": ["referent"]}}], "was_cancelled": false, "lead_time": 12.0, "completed_by": 1, "updated_at": "2026-11-25T08:24:22.871205+00:00"}}','waiting',NULL,NULL,0,0,NULL,'webhook',NULL);
CREATE TABLE record (
	id INTEGER NOT NULL, 
	version_id INTEGER NOT NULL, 
	annotation_id INTEGER NOT NULL, 
	project_id INTEGER NOT NULL, 
	task_id INTEGER NOT NULL, 
	decided_at DATETIME NOT NULL, 
	photo TEXT NOT NULL, 
	photo_sha256 VARCHAR(64), 
	height_px INTEGER, 
	width_px INTEGER, 
	expression TEXT NOT NULL, 
	typed_expression TEXT, 
	outcome VARCHAR(32) NOT NULL, 
	request_id INTEGER, 
	candidate_id INTEGER, 
	offered INTEGER NOT NULL, 
	rank INTEGER, 
	score FLOAT, 
	iou FLOAT, 
	first_iou FLOAT, 
	coco_rle JSON, 
	area_px INTEGER, 
	parts JSON NOT NULL, 
	head_noun_phrase TEXT, 
	region_ids JSON NOT NULL, 
	dabs INTEGER NOT NULL, 
	annotator VARCHAR(200), 
	seconds FLOAT, 
	model_version VARCHAR(200), 
	latency_ms FLOAT, 
	notes JSON NOT NULL, clicks INTEGER DEFAULT '0' NOT NULL, project_created BIGINT DEFAULT '0' NOT NULL, source VARCHAR(64), provenance VARCHAR(16) DEFAULT 'typed' NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(version_id) REFERENCES annotation_version (id), 
	FOREIGN KEY(request_id) REFERENCES request (id), 
	FOREIGN KEY(candidate_id) REFERENCES candidate (id)
);
INSERT INTO "record" VALUES(1,1,1,7,1,'2026-11-25 08:24:22.871205','/data/upload/1.png','0000000000000000000000000000000000000000000000000000000000000001',48,64,'the cat','the cat','accepted',1,2,2,2,0.5,1.0,0.0,'{"size": [48, 64], "counts": "TT1<T1000000000000000000000lY1"}',144,'[]',NULL,'["sm1_2"]',0,'1',12.0,'saymask-test',40.0,'[]',0,0,'proposals','typed');
INSERT INTO "record" VALUES(2,2,2,7,2,'2026-11-25 08:24:22.871205','/data/upload/2.png',NULL,48,64,'the dog','the dog','drawn',NULL,NULL,0,NULL,NULL,NULL,NULL,'{"size": [48, 64], "counts": "T]1<T1000000000000000000000lP1"}',144,'[]',NULL,'["own"]',0,'1',12.0,NULL,NULL,'[]',0,0,NULL,'typed');
INSERT INTO "record" VALUES(3,3,3,7,3,'2026-11-25 08:24:22.871205','/data/upload/3.png',NULL,NULL,NULL,'the moon','the moon','no_referent',NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,'[]',NULL,'[]',0,'1',12.0,NULL,NULL,'[]',0,0,NULL,'typed');
CREATE TABLE request (
	id INTEGER NOT NULL, 
	created_at DATETIME NOT NULL, 
	project_id INTEGER NOT NULL, 
	task_id INTEGER NOT NULL, 
	expression TEXT NOT NULL, 
	k INTEGER NOT NULL, 
	photo TEXT NOT NULL, 
	photo_sha256 VARCHAR(64), 
	status VARCHAR(16) NOT NULL, 
	answered_at DATETIME, 
	latency_ms FLOAT, 
	model_version VARCHAR(200), 
	head_noun_phrase TEXT, 
	height_px INTEGER, 
	width_px INTEGER, 
	from_cache BOOLEAN, 
	timings JSON, 
	notices JSON, 
	error_code VARCHAR(64), 
	error_text TEXT, kind VARCHAR(16) DEFAULT 'typed' NOT NULL, clicks INTEGER DEFAULT '0' NOT NULL, click_ids JSON, confidence FLOAT, project_created BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "request" VALUES(1,'2026-11-25 07:24:22.927151',7,1,'the cat',2,'/data/upload/1.png','0000000000000000000000000000000000000000000000000000000000000001','answered','2026-11-25 07:24:22.940970',40.0,'saymask-test',NULL,48,64,1,'{"decode_ms": 0.0, "proposals_ms": 0.0, "visual_features_ms": 0.0, "language_ms": 0.0, "text_features_ms": 0.0, "scoring_ms": 0.0, "refine_ms": 0.0}','[]',NULL,NULL,'typed',0,'[]',NULL,0);
CREATE TABLE sync_run (
	id INTEGER NOT NULL, 
	project_id INTEGER NOT NULL, 
	started_at DATETIME NOT NULL, 
	finished_at DATETIME, 
	next_page INTEGER NOT NULL, 
	seen JSON NOT NULL, 
	counts JSON NOT NULL, project_created BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE verification (
	id INTEGER NOT NULL, 
	record_id INTEGER NOT NULL, 
	project_id INTEGER NOT NULL, 
	annotation_id INTEGER NOT NULL, 
	verifier VARCHAR(200), 
	verdict VARCHAR(16) NOT NULL, 
	decided_at DATETIME NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT uq_verification_annotation UNIQUE (project_id, annotation_id), 
	FOREIGN KEY(record_id) REFERENCES record (id)
);
CREATE INDEX ix_request_created_at ON request (created_at);
CREATE INDEX ix_request_project_id ON request (project_id);
CREATE INDEX ix_request_task_id ON request (task_id);
CREATE INDEX ix_request_photo_sha256 ON request (photo_sha256);
CREATE INDEX ix_request_status ON request (status);
CREATE INDEX ix_candidate_request_id ON candidate (request_id);
CREATE INDEX ix_event_received_at ON event (received_at);
CREATE INDEX ix_event_action ON event (action);
CREATE INDEX ix_event_project_id ON event (project_id);
CREATE INDEX ix_event_task_id ON event (task_id);
CREATE INDEX ix_event_annotation_id ON event (annotation_id);
CREATE INDEX ix_event_state ON event (state);
CREATE INDEX ix_record_version_id ON record (version_id);
CREATE INDEX ix_record_annotation_id ON record (annotation_id);
CREATE INDEX ix_record_project_id ON record (project_id);
CREATE INDEX ix_record_task_id ON record (task_id);
CREATE INDEX ix_record_decided_at ON record (decided_at);
CREATE INDEX ix_record_photo_sha256 ON record (photo_sha256);
CREATE INDEX ix_record_outcome ON record (outcome);
CREATE INDEX ix_record_request_id ON record (request_id);
CREATE INDEX ix_record_annotator ON record (annotator);
CREATE INDEX ix_sync_run_project_id ON sync_run (project_id);
CREATE INDEX ix_annotation_version_annotation_id ON annotation_version (annotation_id);
CREATE INDEX ix_annotation_version_task_id ON annotation_version (task_id);
CREATE INDEX ix_annotation_version_project_id ON annotation_version (project_id);
CREATE INDEX ix_verification_project_id ON verification (project_id);
CREATE INDEX ix_verification_record_id ON verification (record_id);
COMMIT;
